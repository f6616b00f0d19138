import dataclasses
import io
import zipfile

import numpy as np
import pytest

from edgewise.runtime import cache_folder, prefix_files
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.bundle import open_bundle, write_manifest
from edgewise.runtime.cache_folder import FOLDER, PREFIX_SUFFIX
from edgewise.runtime.manifest import decoder_cache
from edgewise.runtime.prefix_files import save, saved
from edgewise.runtime.prefix_store import PrefixError

TOKENS = list(range(40, 60))


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    return open_bundle(write_fake_bundle(tmp_path / "bundle"))


@pytest.fixture
def cache(bundle):
    layout = decoder_cache(bundle.manifest)
    shape = (len(layout.past_names), layout.key_value_heads, len(TOKENS), layout.head_size)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_what_is_saved_is_found_and_read_bit_for_bit(bundle, cache):
    written = save(bundle, TOKENS, cache)
    assert written.path.parent == bundle.path / FOLDER
    assert [item.name for item in (bundle.path / FOLDER).iterdir()] == [written.path.name]
    (found,) = saved(bundle)
    assert found == written
    assert found.tokens == tuple(TOKENS)
    assert found.read_cache().tobytes() == cache.tobytes()
    save(bundle, TOKENS, cache)  # the same again
    assert len(list(saved(bundle))) == 1


def test_where_the_bundle_can_not_be_written_the_users_folder_is_taken(
    bundle, cache, tmp_path, monkeypatch
):
    writable = cache_folder._is_writable
    monkeypatch.setattr(
        cache_folder,
        "_is_writable",
        lambda folder: folder != bundle.path / FOLDER and writable(folder),
    )
    written = save(bundle, TOKENS, cache)
    assert written.path.parent == tmp_path / "users" / "edgewise"
    assert list(saved(bundle)) == [written]
    monkeypatch.setattr(cache_folder, "_is_writable", lambda _folder: False)
    with pytest.raises(PrefixError, match=r"neither .* can be written"):
        save(bundle, TOKENS, cache)


def test_another_model_does_not_find_it(bundle, cache):
    save(bundle, TOKENS, cache)
    tokenizer = bundle.file("tokenizer")
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    files = tuple(
        dataclasses.replace(file, bytes=file.bytes + 1, sha256="0" * 64)
        if file.role == "tokenizer"
        else file
        for file in bundle.manifest.files
    )
    write_manifest(bundle.path, dataclasses.replace(bundle.manifest, files=files))
    assert list(saved(open_bundle(bundle.path))) == []


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_such_file_is_left_out(bundle, cache, content, caplog):
    path = save(bundle, TOKENS, cache).path
    path.write_bytes(content)
    assert list(saved(bundle)) == []
    assert path.name in caplog.text


def test_a_flipped_bit_is_noticed_when_it_is_read(bundle, cache):
    written = save(bundle, TOKENS, cache)
    content = bytearray(written.path.read_bytes())
    content[content.index(cache.tobytes()[:16])] ^= 1
    written.path.write_bytes(content)
    (found,) = saved(bundle)
    with pytest.raises(PrefixError, match="can not be read and is left out"):
        found.read_cache()


def test_objects_in_pickle_are_never_loaded(bundle, cache):
    path = save(bundle, TOKENS, cache).path
    np.savez(path.open("wb"), tokens=np.array([object()], object), cache=cache)
    assert list(saved(bundle)) == []


@pytest.mark.parametrize(
    "arrays",
    [
        {"tokens": np.array(TOKENS, np.int64)},
        {"tokens": np.array([TOKENS], np.int32)},
        {"tokens": np.zeros(0, np.int32)},
        {"tokens": np.zeros(10**6, np.int32)},
        {"other": np.array(TOKENS, np.int32)},
    ],
    ids=["dtype", "axes", "none", "too many", "name"],
)
def test_tokens_of_another_kind_are_left_out(bundle, cache, arrays, caplog):
    path = save(bundle, TOKENS, cache).path
    np.savez(path.open("wb"), cache=cache, **arrays)
    assert list(saved(bundle)) == []
    assert path.name in caplog.text


def test_a_file_that_is_larger_than_its_tokens_is_left_out(bundle, cache, caplog):
    path = save(bundle, TOKENS, cache).path
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("more", b"x" * 10_000)
    path.write_bytes(content.getvalue())
    assert list(saved(bundle)) == []
    assert "larger than its tokens need" in caplog.text


def test_keys_and_values_of_another_shape_are_refused(bundle, cache):
    path = save(bundle, TOKENS, cache).path
    np.savez(path.open("wb"), tokens=np.array(TOKENS, np.int32), cache=cache[:, :, 1:])
    (found,) = saved(bundle)
    with pytest.raises(PrefixError, match="and is left out"):
        found.read_cache()


def test_there_are_no_more_than_can_be_looked_through(bundle, cache, monkeypatch):
    monkeypatch.setattr(prefix_files, "FILES_MAX", 1)
    save(bundle, TOKENS, cache)
    save(bundle, TOKENS, cache)
    with pytest.raises(PrefixError, match=f"delete some {PREFIX_SUFFIX}"):
        save(bundle, TOKENS[1:], cache[:, :, 1:])
