"""Bundle to tokens: what a device needs to answer requests.

``load(bundle)`` gives a `LanguageModel` with ``stream`` and ``generate``. Importing this package is
cheap: the names below are imported when they are first used, so that a program that only reads a
manifest loads no tokenizer and no engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewise.runtime.bundle import Bundle, BundleError, Manifest, open_bundle
    from edgewise.runtime.generation import Generation, Piece, Statistics
    from edgewise.runtime.model import LanguageModel, load
    from edgewise.runtime.options import GenerationOptions, OptionsError

__all__ = [
    "Bundle",
    "BundleError",
    "Generation",
    "GenerationOptions",
    "LanguageModel",
    "Manifest",
    "OptionsError",
    "Piece",
    "Statistics",
    "load",
    "open_bundle",
]

_MODULES = {
    "bundle": ("Bundle", "BundleError", "Manifest", "open_bundle"),
    "generation": ("Generation", "Piece", "Statistics"),
    "model": ("LanguageModel", "load"),
    "options": ("GenerationOptions", "OptionsError"),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
