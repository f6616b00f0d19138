"""Reads which module imports which, and says what breaks the rules of the architecture.

Workflow: `imports_of` walks the syntax tree of a source, so that imports inside functions, under
TYPE_CHECKING and by `importlib.import_module` count like any other; `violations_in` holds them
against the two tables below.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What each folder may import of the others.
FOLDERS = {
    "common": frozenset(),
    "firmware_profiles": frozenset({"common"}),
    "runtime": frozenset({"common", "firmware_profiles"}),
    "exporter": frozenset({"common", "firmware_profiles", "runtime"}),
    "device": frozenset({"common", "firmware_profiles", "runtime"}),
    "cli": frozenset({"common", "firmware_profiles", "runtime", "exporter", "device"}),
}

# Where each library of others may be imported. What is not listed is imported nowhere, torch,
# transformers and pickle among it.
HOMES = {
    "numpy": ("runtime/*", "exporter/*"),
    "onnxruntime": ("runtime/backends/onnx.py",),
    "tokenizers": (
        "runtime/tokenizer.py",
        "runtime/detokenizer.py",
        "runtime/backends/fake_bundle.py",
        "exporter/calibration/text.py",
        "exporter/checkpoint/tokenizer_check.py",
        "exporter/description.py",
        "exporter/formula_tokenizer.py",
        "exporter/verify.py",
    ),
    "jinja2": ("runtime/chat.py",),
    "PIL": ("runtime/images.py",),
    "llguidance": ("runtime/constraint.py",),
    "onnx": ("exporter/graph/onnx_*.py", "exporter/traced/program.py"),
    "optimum": ("exporter/traced/program.py",),
    "ai_edge_litert": ("runtime/backends/litert*.py", "exporter/graph/tflite_*.py"),
    "tflite_runtime": ("runtime/backends/litert_interpreter.py",),
    "litert_lm_builder": ("exporter/targets/litertlm.py",),
    "flatbuffers": ("exporter/graph/tflite_*.py",),
    "gguf": ("exporter/checkpoint/*.py",),
    "huggingface_hub": ("exporter/checkpoint/hub.py",),
    "tqdm": ("exporter/checkpoint/hub.py",),
    "paho": ("device/mqtt.py",),
    "amqtt": ("device/embedded_broker.py",),
    "starlette": ("device/http/*",),
    "uvicorn": ("device/http/server.py", "device/http/connections.py"),
    "click": ("cli/*",),
}
# Modules of the standard library that run code from what they read.
REFUSED_STANDARD = frozenset({"pickle", "shelve", "marshal"})


@dataclass(frozen=True)
class Import:
    """One import of a source."""

    module: str  # absolute name; "edgewise.runtime" for `from edgewise import runtime`
    line: int
    in_function: bool
    for_types: bool  # under `if TYPE_CHECKING`


def product_files() -> list[str]:
    """Return every module of the product, relative to the repository."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    )


def imports_of(source: str, path: str) -> list[Import]:
    """Return every import of a source that lies at ``path`` below the package's root."""
    return list(_walk(ast.parse(source), path, in_function=False, for_types=False))


def violations_in(source: str, path: str) -> list[str]:
    """Return a sentence for each import that breaks a rule; empty for none."""
    folder = path.partition("/")[0]
    problems = []
    for found in imports_of(source, path):
        where = f"{path}:{found.line}"
        top, _, rest = found.module.partition(".")
        if top == "edgewise":
            target = rest.partition(".")[0]
            if target == folder:
                continue
            if target not in FOLDERS[folder]:
                problems.append(f"{where} {folder} must not import {found.module}")
            elif (
                folder == "cli"
                and target != "common"
                and not (found.in_function or found.for_types)
            ):
                problems.append(f"{where} cli must import {found.module} inside the command")
        elif top in sys.stdlib_module_names:
            if top in REFUSED_STANDARD:
                problems.append(f"{where} {top} is never used")
        elif top not in HOMES:
            problems.append(f"{where} {top} is no library of the product")
        elif not any(fnmatch(path, home) for home in HOMES[top]):
            problems.append(f"{where} {top} is imported in {', '.join(HOMES[top])} only")
    return problems


def _walk(node: ast.AST, path: str, *, in_function: bool, for_types: bool) -> Iterator[Import]:
    def found(module: str) -> Import:
        return Import(module, getattr(node, "lineno", 0), in_function, for_types)

    if isinstance(node, ast.Import):
        yield from (found(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, path)
        if base == "edgewise":
            yield from (found(f"edgewise.{alias.name}") for alias in node.names)
        else:
            yield found(base)
    elif isinstance(node, ast.Call) and _called(node.func) in {"import_module", "__import__"}:
        yield found(_named(node, path))
    for child in ast.iter_child_nodes(node):
        yield from _walk(
            child,
            path,
            in_function=in_function
            or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
            for_types=for_types
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)),
        )


def _absolute(node: ast.ImportFrom, path: str) -> str:
    if not node.level:
        return node.module or ""
    folders = ["edgewise", *path.split("/")[:-1]]
    return ".".join(
        [*folders[: len(folders) - node.level + 1], *([node.module] if node.module else [])]
    )


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _named(call: ast.Call, path: str) -> str:
    """Return what a call imports: a plain text, or a module below its own package."""
    argument = call.args[0] if call.args else None
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    if isinstance(argument, ast.JoinedStr) and ast.unparse(argument).startswith(
        ("f'{__name__}.", 'f"{__name__}.')
    ):
        return ".".join(["edgewise", *path.split("/")[:-1]])
    return "a-name-made-at-run-time"
