import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.bundle import (
    BundleError,
    BundleFile,
    CacheLayout,
    SamplingDefaults,
    SpecialTokens,
    TokenizerProbe,
    describe_file,
    open_bundle,
    write_manifest,
)
from edgewise.runtime.manifest import manifest_from_json, manifest_to_json


def edit(folder: Path, change) -> None:
    """Rewrite manifest.json past every check."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_what_is_written_is_read_again(plain_bundle, manifest_maker):
    bundle = open_bundle(plain_bundle, verify_hashes=True)
    assert bundle.manifest == manifest_maker()
    assert bundle.file("graph") == plain_bundle.resolve() / "model.onnx"
    assert bundle.read_text("chat_template") == "{{ messages[0].content }}"
    assert bundle.has("weights")
    assert not bundle.has("genai_config")
    with pytest.raises(BundleError, match="no file with the role genai_config, only graph"):
        bundle.file("genai_config")


def test_error_is_the_users(plain_bundle):
    assert issubclass(BundleError, EdgewiseError)


def test_json_is_readable_text(manifest_maker):
    text = manifest_to_json(manifest_maker(model_id="größe")).decode()
    assert text.startswith('{\n  "format_version": 3,\n  "model_id": "größe",')
    assert text.endswith("}\n")


def test_describe_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"abc")
    expected = BundleFile("graph", "model.onnx", 3, hashlib.sha256(b"abc").hexdigest())
    assert describe_file(tmp_path, "graph", "model.onnx") == expected


def test_all_faults_of_fields_are_listed(plain_bundle):
    def change(value):
        del value["recipe"]
        del value["cache"]["head_size"]
        value["colour"] = "red"
        value["parameters"] = "many"
        value["threads"] = True
        value["cache"]["dtype"] = "int3"
        value["files"][0]["bytes"] = 5.5
        value["defaults"]["top_p"] = "all"
        value["minimum_versions"]["numpy"] = 1

    edit(plain_bundle, change)
    with pytest.raises(BundleError) as caught:
        open_bundle(plain_bundle)
    message = str(caught.value)
    for clause in (
        "manifest.recipe is missing",
        "manifest.cache.head_size is missing",
        "manifest.colour is unknown",
        'manifest.parameters must be a whole number, not "many"',
        "manifest.threads must be a whole number, not true",
        'manifest.cache.dtype is "int3"; accepted: "float32", "float16", "int8"',
        "manifest.files[0].bytes must be a whole number, not 5.5",
        'manifest.defaults.top_p must be a number, not "all"',
        "manifest.minimum_versions.numpy must be a string, not 1",
    ):
        assert clause in message
    assert str(plain_bundle / "manifest.json") in message


@pytest.mark.parametrize("version", [4, 99])
def test_newer_format_asks_for_an_upgrade(plain_bundle, version):
    edit(plain_bundle, lambda value: value.update(format_version=version, new_field=1))
    with pytest.raises(BundleError, match=rf"format version {version}.*up to 3.*upgrade"):
        open_bundle(plain_bundle)


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_impossible_format_version(plain_bundle, version):
    edit(plain_bundle, lambda value: value.update(format_version=version))
    with pytest.raises(BundleError, match="is this the manifest of an Edgewise bundle"):
        open_bundle(plain_bundle)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "Expecting value"),
        (b"[]", "a list, not an object"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"format_version": NaN}', "NaN is not JSON"),
        (b"[" * 200_000, "nested deeper than 32 levels"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "not usable"),
        (b" " * (5 << 20), "it is no manifest"),
    ],
)
def test_unusable_manifest(plain_bundle, content, match):
    (plain_bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=match):
        open_bundle(plain_bundle)


def test_every_prefix_of_the_manifest_is_refused(plain_bundle):
    path = plain_bundle / "manifest.json"
    content = path.read_bytes()
    for length in range(0, len(content) - 2, 7):
        path.write_bytes(content[:length])
        with pytest.raises(BundleError):
            open_bundle(plain_bundle)


def test_no_folder_and_no_manifest(tmp_path):
    with pytest.raises(BundleError, match="is not a folder"):
        open_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        open_bundle(tmp_path)


def test_missing_and_truncated_files_stand_in_one_error(plain_bundle):
    (plain_bundle / "model.onnx").unlink()
    weights = plain_bundle / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError) as caught:
        open_bundle(plain_bundle)
    assert "model.onnx is missing" in str(caught.value)
    assert "model.onnx.data has 699 bytes, the manifest says 700" in str(caught.value)


def test_swapped_file_is_found_by_its_hash(plain_bundle):
    weights = plain_bundle / "model.onnx.data"
    weights.write_bytes(b"x" * weights.stat().st_size)
    open_bundle(plain_bundle)
    with pytest.raises(BundleError, match=r"model\.onnx\.data has another content"):
        open_bundle(plain_bundle, verify_hashes=True)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "a/../../b", "./model.onnx", "a//b", "", "a\\b", "C:x", "a\0b",
     "manifest.json"],
)  # fmt: skip
def test_paths_that_leave_the_folder_are_refused(plain_bundle, path):
    edit(plain_bundle, lambda value: value["files"][0].update(path=path))
    with pytest.raises(BundleError, match="is not relative or leads out of the bundle"):
        open_bundle(plain_bundle)


def test_links_may_stay_inside_but_not_leave(plain_bundle, tmp_path):
    graph = plain_bundle / "model.onnx"
    inside = plain_bundle / "blob"
    graph.rename(inside)
    graph.symlink_to("blob")
    open_bundle(plain_bundle, verify_hashes=True)
    outside = tmp_path / "outside"
    inside.rename(outside)
    graph.unlink()
    graph.symlink_to(outside)
    with pytest.raises(BundleError, match=r"model\.onnx is a link that leads out"):
        open_bundle(plain_bundle)
    graph.unlink()
    graph.symlink_to(graph)
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        open_bundle(plain_bundle)


def test_a_linked_bundle_opens(plain_bundle, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(plain_bundle)
    assert open_bundle(link).path == plain_bundle.resolve()


def test_a_folder_in_place_of_a_file(plain_bundle):
    (plain_bundle / "model.onnx").unlink()
    (plain_bundle / "model.onnx").mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx is no regular file"):
        open_bundle(plain_bundle)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"context_length": 0}, "context_length is 0"),
        ({"format_version": 1}, "format_version is 1, accepted: 3"),
        ({"model_id": ""}, "model_id is empty"),
        ({"cache": CacheLayout(2, 1, 8, "int8", axes=("batch", "position"))}, "cache.axes is"),
        (
            {"cache": CacheLayout(2, 1, 8, "int8", past_key_name="past.key")},
            "cache.past_key_name must hold",
        ),
        ({"inputs": ()}, "inputs must hold"),
        ({"chat": None}, "chat_template file but no chat sample"),
        ({"probes": (TokenizerProbe("x", (5, 100)),)}, "is token 100, the vocabulary has 100"),
        ({"probes": (TokenizerProbe("x", (-1, 5)),)}, "is token -1"),
        ({"tokens": SpecialTokens(1, (2, 300), None, True, None, None)}, r"end\[1\] is token 300"),
        ({"tokens": SpecialTokens(None, (2,), None, True, None, None)}, "no beginning token"),
        ({"defaults": SamplingDefaults(top_p=2.0)}, "in defaults, top_p is 2.0"),
    ],
)
def test_contradictions_are_refused(manifest_maker, changes, match):
    with pytest.raises(BundleError, match=match):
        manifest_maker(**changes)


def test_contradictions_of_files_are_refused(manifest_maker):
    files = manifest_maker().files
    graph, weights, tokenizer, template = files
    for given, match in (
        (files[1:], "no file has the role graph"),
        ((*files, replace(graph, path="b")), "2 files have the role graph"),
        ((*files, replace(graph, role="notes", path="b")), "role 'notes' is unknown"),
        ((graph, replace(weights, path="model.onnx"), tokenizer, template), "listed 2 times"),
        ((replace(graph, bytes=-1), *files[1:]), "has -1 bytes"),
        ((replace(graph, sha256="AB" * 32), *files[1:]), "not 64 lower-case hexadecimal"),
        (files[:3], "no file with the role chat_template"),
    ):
        with pytest.raises(BundleError, match=match):
            manifest_maker(files=given)


def test_a_wrong_type_is_found_when_writing(plain_bundle, manifest_maker):
    with pytest.raises(BundleError, match=r"the manifest to write.*origin\.name must be a string"):
        write_manifest(
            plain_bundle, manifest_maker(origin=replace(manifest_maker().origin, name=7))
        )


def test_a_manifest_that_does_not_fit_its_files_is_not_written(plain_bundle, manifest_maker):
    (plain_bundle / "model.onnx").write_bytes(b"longer than before")
    before = (plain_bundle / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match=re.escape("does not fit")):
        write_manifest(plain_bundle, manifest_maker())
    assert (plain_bundle / "manifest.json").read_bytes() == before


def test_whole_numbers_pass_for_fractions(manifest_maker):
    content = manifest_to_json(manifest_maker(defaults=SamplingDefaults(temperature=1)))
    defaults = manifest_from_json(content, "x").defaults
    assert defaults.temperature == 1.0
    assert type(defaults.temperature) is float
