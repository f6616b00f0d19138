"""Checkpoint to bundle: what runs on a workstation.

``export(checkpoint, profile=..., output=...)`` is the whole of it. Names are imported when they are
first used, so that a program that only lists model types loads no converter.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewise.exporter.checkpoint import open_checkpoint
    from edgewise.exporter.models import model_types
    from edgewise.exporter.pipeline import ExportReport, export

__all__ = ["ExportReport", "export", "model_types", "open_checkpoint"]

_MODULES = {
    "export": "pipeline",
    "ExportReport": "pipeline",
    "open_checkpoint": "checkpoint",
    "model_types": "models",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
