"""Engines: one file a library and kind of model, of which only the one that is used is imported."""

from __future__ import annotations

import importlib
import operator
from typing import Any


def find(module: str, attribute: str) -> Any:
    """Import one of these modules and return a part of it, such as a class or its method."""
    return operator.attrgetter(attribute)(importlib.import_module(f"{__name__}.{module}"))
