"""Bundle to tokens: what a device needs to answer requests.

``load(bundle)`` gives what the bundle's family is: a `LanguageModel`, a `VisionLanguageModel` or a
`SequenceModel` with ``stream`` and ``generate``, or an `EncoderModel` with ``embed``, ``classify``
and ``fill_mask``.
Importing this package is cheap: the names below are imported when they are first used, so that a
program that only reads a manifest loads no tokenizer and no engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewise.runtime.bundle import Bundle, BundleError, Manifest, Task, open_bundle
    from edgewise.runtime.encoder_model import EncoderModel
    from edgewise.runtime.generation import Generation, Piece, Statistics
    from edgewise.runtime.language_model import LanguageModel
    from edgewise.runtime.loading import load
    from edgewise.runtime.model import ModelError
    from edgewise.runtime.options import GenerationOptions, OptionsError
    from edgewise.runtime.sequence_model import SequenceModel
    from edgewise.runtime.tasks import TaskError, check_task, resolve_task
    from edgewise.runtime.vision_language_model import VisionLanguageModel

__all__ = [
    "Bundle",
    "BundleError",
    "EncoderModel",
    "Generation",
    "GenerationOptions",
    "LanguageModel",
    "Manifest",
    "ModelError",
    "OptionsError",
    "Piece",
    "SequenceModel",
    "Statistics",
    "Task",
    "TaskError",
    "VisionLanguageModel",
    "check_task",
    "load",
    "open_bundle",
    "resolve_task",
]

_MODULES = {
    "bundle": ("Bundle", "BundleError", "Manifest", "Task", "open_bundle"),
    "encoder_model": ("EncoderModel",),
    "generation": ("Generation", "Piece", "Statistics"),
    "language_model": ("LanguageModel",),
    "loading": ("load",),
    "model": ("ModelError",),
    "options": ("GenerationOptions", "OptionsError"),
    "sequence_model": ("SequenceModel",),
    "tasks": ("TaskError", "check_task", "resolve_task"),
    "vision_language_model": ("VisionLanguageModel",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
