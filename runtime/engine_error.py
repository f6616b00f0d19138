"""What sets faults of an engine or a model apart from mistakes in what was asked of them."""

from __future__ import annotations

from edgewise.common.errors import EdgewiseError


class EngineError(EdgewiseError):
    """The engine, or the model in it, fails; another request may fail alike."""
