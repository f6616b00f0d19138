"""Where a bundle may be written, and what an export never deletes."""

import shutil

import pytest
from bundle_files import tree

from edgewise.exporter import export
from edgewise.exporter.pipeline import OutputError
from edgewise.runtime import open_bundle

BOARD = "raspberry_pi_5"


def test_an_older_bundle_is_replaced_whole(tiny_folder, bundle, tmp_path):
    older = tmp_path / "bundle"
    shutil.copytree(bundle.path, older)
    report = export(str(tiny_folder("qwen2_tied")), profile=BOARD, output=older, recipe="fp16")
    assert report.bundle.path == older.resolve()
    assert open_bundle(older, verify_hashes=True).manifest.model_id == "qwen2_tied"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_damaged_bundle_is_replaced_too(tiny_folder, bundle, tmp_path):
    older = tmp_path / "bundle"
    shutil.copytree(bundle.path, older)
    (older / "model.onnx.data").write_bytes(b"short")
    (older / "tokenizer.json").unlink()
    export(str(tiny_folder("qwen2_tied")), profile=BOARD, output=older, recipe="fp32")
    assert open_bundle(older, verify_hashes=True).manifest.model_id == "qwen2_tied"


def test_an_empty_folder_is_taken(tiny_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    export(str(tiny_folder("qwen2_tied")), profile=BOARD, output=tmp_path / "empty", recipe="fp32")
    assert open_bundle(tmp_path / "empty", verify_hashes=True)


@pytest.mark.parametrize("output", [".", "made/on/the/way", "../beside"])
def test_a_relative_output_is_taken_from_where_the_user_stands(
    tiny_folder, tmp_path, monkeypatch, output
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    report = export(str(tiny_folder("qwen2_tied")), profile=BOARD, output=output, recipe="fp32")
    assert report.bundle.path == (here / output).resolve()
    assert open_bundle(here / output)


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": "mine"},
        {"sub/notes.txt": "mine"},
        {"manifest.json": '{"name": "a web application"}', "app.js": "mine"},
        {"manifest.json": "no JSON", "model.onnx": "mine"},
        {"manifest.json": '["a list"]'},
    ],
)
def test_a_folder_with_anything_else_in_it_is_refused(tiny_folder, tmp_path, files):
    output = tmp_path / "output"
    for name, content in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(content)
    before = tree(output)
    with pytest.raises(OutputError, match="holds files that no export wrote") as caught:
        export(str(tiny_folder("qwen2_tied")), profile=BOARD, output=output, recipe="fp32")
    assert next(iter(files)) in str(caught.value)
    assert tree(output) == before


def test_a_users_file_beside_a_bundle_is_not_deleted(tiny_folder, bundle, tmp_path):
    output = tmp_path / "bundle"
    shutil.copytree(bundle.path, output)
    (output / "README.md").write_text("mine")
    with pytest.raises(OutputError, match=r"\(README\.md\)"):
        export(str(tiny_folder("qwen2_tied")), profile=BOARD, output=output, recipe="fp32")
    assert (output / "README.md").read_text() == "mine"


def test_a_file_as_output_is_refused(tiny_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for output, words in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "sub", "file")):
        with pytest.raises(OutputError, match=words):
            export(str(tiny_folder("qwen2_tied")), profile=BOARD, output=output, recipe="fp32")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tiny_folder, tmp_path, monkeypatch):
    def no_space(descriptor: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgewise.exporter.graph.onnx_weights.os.ftruncate", no_space)
    with pytest.raises(OutputError, match="bundle: No space left on device; give another"):
        export(
            str(tiny_folder("qwen2_tied")),
            profile=BOARD,
            output=tmp_path / "bundle",
            recipe="fp32",
        )
    assert list(tmp_path.iterdir()) == []
