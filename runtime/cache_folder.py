"""Where files are kept that make the next load of a bundle, or its next answer, faster.

Rules: the bundle's own folder is preferred, then the user's cache folder. Whatever lies there may
be deleted at any time, and nothing is lost but time.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = ".cache"
PREFIX_SUFFIX = ".prefix.npz"  # of beginnings of prompts, see prefix_files.py


def bundle_cache_folder(bundle: Path) -> Path | None:
    """Return the first folder that can be written, making it if there is none.

    Args:
        bundle: The bundle's folder.

    Returns:
        None: nothing can be kept on this machine.
    """
    return next(filter(_is_writable, (bundle / FOLDER, users_cache_folder())), None)


def cached_files(bundle: Path, pattern: str) -> list[Path]:
    """Return the files that are kept for a bundle, those in its own folder first.

    Args:
        bundle: The bundle's folder.
        pattern: Of their names, as `Path.glob` takes it.
    """
    folders = (bundle / FOLDER, users_cache_folder())
    return [path for folder in folders for path in sorted(folder.glob(pattern))]


def users_cache_folder() -> Path:
    """Return the folder for what belongs to no single bundle; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgewise"


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
