import subprocess
import sys

import pytest

from edgewise.runtime.backends.fake_bundle import write_fake_bundle

HEAVY = ("onnx", "onnxruntime", "torch", "transformers", "gguf", "paho", "safetensors")


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def third_party(modules: set[str]) -> set[str]:
    """Top-level modules outside the standard library and what the interpreter starts with."""
    before = {name.partition(".")[0] for name in modules_after("pass")}
    names = {name.partition(".")[0] for name in modules}
    return names - before - set(sys.stdlib_module_names) - {"edgewise"}


@pytest.mark.parametrize(
    "statement",
    [
        "import edgewise.runtime",
        "import edgewise.runtime.bundle, edgewise.runtime.options, edgewise.runtime.versions",
        "import edgewise.runtime.slot_pool, edgewise.runtime.stop, edgewise.runtime.generation",
        "from edgewise.runtime import open_bundle, GenerationOptions, Piece",
    ],
)
def test_reading_a_manifest_needs_the_standard_library_alone(statement):
    assert third_party(modules_after(statement)) == set()


def test_loading_a_model_imports_no_engine_before_it_is_chosen():
    modules = modules_after("from edgewise.runtime import load, LanguageModel")
    assert not {name.partition(".")[0] for name in modules} & set(HEAVY)
    # numpy 1 brings Cython's own entries.
    names = {name for name in third_party(modules) if "cython" not in name}
    assert names == {"numpy", "tokenizers", "jinja2", "markupsafe"}


SLOW = {
    "asyncio", "argparse", "concurrent", "email", "http", "importlib.metadata", "llguidance",
    "multiprocessing", "numpy.random", "sqlite3", "ssl", "subprocess", "unittest", "uuid", "PIL",
}  # fmt: skip


def test_the_engine_is_begun_before_tokenizer_and_template_are_loaded():
    modules = modules_after("import edgewise.runtime.loading")
    assert not {"numpy", "tokenizers", "jinja2", "edgewise.runtime.scheduler"} & modules


def test_an_answer_needs_no_module_that_is_slow_to_load(tmp_path):
    folder = write_fake_bundle(tmp_path / "b")
    answer = f"edgewise.runtime.load({str(folder)!r}, threads=1).generate('Where?')"
    modules = modules_after(f"import edgewise.runtime; {answer}")
    assert "edgewise.runtime.scheduler" in modules
    assert not SLOW & modules


def test_the_packed_graph_of_onnxruntime_needs_none_either():
    pytest.importorskip("onnxruntime")
    own = modules_after("import numpy, onnxruntime")
    assert not SLOW & (modules_after("import edgewise.runtime.backends.onnx") - own)
