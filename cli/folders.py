"""Where the command line keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: XDG_CACHE_HOME/edgewise, or ~/.cache/edgewise (XDG Base Directory).

    A relative XDG_CACHE_HOME is to be ignored by that specification.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = given if given.is_absolute() else Path.home() / ".cache"
    return base / "edgewise"
