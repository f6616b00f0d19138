"""``edgewise export --via optimum``, with a stored graph in the place of what Optimum traces."""

import pytest
from bundle_files import change_json
from traced_cases import write_checkpoint_of, write_interpreter


@pytest.fixture
def arguments(tmp_path):
    checkpoint = write_checkpoint_of("gpt_neox", tmp_path / "tiny-pythia")
    return ("export", checkpoint, "--profile", "x86_64", "--recipe", "fp32", "-o", tmp_path / "b")


def test_a_bundle_is_made_inspected_and_run(edgewise, arguments, tmp_path):
    python = write_interpreter("gpt_neox", tmp_path / "python")
    result = edgewise(*arguments, "--via", "optimum", "--optimum-python", python)
    assert result.code == 0, result
    stages = [line.split()[0] for line in result.err.splitlines()]
    assert stages == ["optimum", "export", "verify", "publish"]
    assert "top-1 agreement 100.0%" in result.out
    assert "gpt_neox" in edgewise("inspect", tmp_path / "b").out
    answer = edgewise("run", tmp_path / "b", "Hello", "--raw", "--max-tokens", "3")
    assert answer.code == 0, answer
    assert answer.out


def test_the_interpreter_may_be_named_by_the_environment(
    edgewise, arguments, tmp_path, monkeypatch
):
    python = write_interpreter("gpt_neox", tmp_path / "python")
    monkeypatch.setenv("EDGEWISE_OPTIMUM_PYTHON", str(python))
    assert edgewise(*arguments, "--via", "optimum", "--json").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--via", "optimum"), "pip install 'optimum-onnx[onnxruntime]'"),
        (("--via", "torch"), "accepted: 'optimum'"),
        (
            ("--optimum-python", "python"),
            "accepted where an interpreter for it is given: 'optimum'",
        ),
        (("--via", "optimum", "--optimum-python", "/absent"), "can not be run"),
    ],
)
def test_a_mistake_is_one_sentence(edgewise, arguments, options, words):
    assert words in edgewise(*arguments, *options).mistake()


def test_a_folder_that_may_not_be_written_is_one_sentence(edgewise, arguments, tmp_path):
    python = write_interpreter("gpt_neox", tmp_path / "python")
    given = (*arguments[:-1], "/proc/edgewise/bundle", "--via", "optimum")
    result = edgewise(*given, "--optimum-python", python)
    assert result.code == 2
    assert "/proc/edgewise can not be written to" in result.err.splitlines()[-1]


def test_an_unknown_type_is_told_of_this_way(edgewise, arguments):
    change_json(arguments[1] / "config.json", model_type="lama")
    message = edgewise(*arguments).mistake()
    assert "Did you mean 'llama'?" in message
    assert "--via optimum" in message
