"""The optional parts of the installation: which packages each needs, and how to get them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from edgewise.common.errors import EdgewiseError

# Extra of pyproject.toml -> the modules that it brings.
EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "export": ("gguf", "huggingface_hub", "ml_dtypes", "onnx"),
        "demo": ("gguf", "huggingface_hub", "ml_dtypes", "onnx", "amqtt"),
        "litert": ("ai_edge_litert", "flatbuffers"),
        "litertlm": ("ai_edge_litert", "flatbuffers", "litert_lm_builder"),
        "constraints": ("llguidance",),
        "vision": ("PIL",),
        "serve": ("starlette", "uvicorn"),
        "optimum": ("optimum",),  # better in an environment of its own
    }
)
# What the base installation consists of, beside click, without which nothing of this runs.
BASE = ("jinja2", "numpy", "onnxruntime", "paho", "tokenizers")


class ExtraMissingError(EdgewiseError):
    """Something is asked for that needs packages beyond the base installation."""


def missing_modules(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of some top-level modules that are not installed; none is imported."""
    return tuple(name for name in modules if importlib.util.find_spec(name) is None)


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    if extra == "optimum":
        from edgewise.exporter.traced.environment import INSTALL_COMMAND

        return INSTALL_COMMAND
    return f"pip install 'edgewise[{extra}]'"


def require_extra(extra: str, purpose: str) -> None:
    """Refuse to go on without an extra.

    Args:
        extra: One of ``EXTRAS``.
        purpose: What needs it, as the subject of a sentence.

    Raises:
        ExtraMissingError: A module of it is missing; the message has the command.
    """
    if missing := missing_modules(EXTRAS[extra]):
        raise ExtraMissingError(
            f"{purpose} needs {', '.join(missing)}, which the base installation leaves out: "
            f"{install_command(extra)}."
        )
