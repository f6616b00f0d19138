import subprocess
import sys

import pytest

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
