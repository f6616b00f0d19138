"""Where files are kept that make the next load of a bundle, or its next answer, faster.

Rules: the bundle's own folder is preferred, then the user's cache folder. Whatever lies there may
be deleted at any time, and nothing is lost but time.
"""

from __future__ import annotations

import os
import platform
import re
import zlib
from pathlib import Path

FOLDER = ".cache"
PREFIX_SUFFIX = ".prefix.npz"  # of beginnings of prompts, see prefix_files.py

ENDS = 1 << 16  # bytes at either end of a file that its key covers
_FEATURES = re.compile(r"^(?:flags|Features|model name|CPU part)\s*:.*$", re.MULTILINE)


def bundle_cache_folder(bundle: Path) -> Path | None:
    """Return the first folder that can be written, making it if there is none.

    Args:
        bundle: The bundle's folder.

    Returns:
        None: nothing can be kept on this machine.
    """
    return next(filter(_is_writable, (bundle / FOLDER, users_cache_folder())), None)


def model_key(folder: Path, model: Path) -> str:
    """Return what the names of a model's files in a cache folder begin with.

    Args:
        folder: What `bundle_cache_folder` gave for the model's bundle.
        model: A file in the bundle's folder.
    """
    if folder == model.parent / FOLDER:
        return model.name
    return f"{zlib.crc32(os.fsencode(model.absolute())):08x}"  # the folder has other bundles' too


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


def is_kept_for_speed(path: Path) -> bool:
    """Tell whether a file of a bundle's folder lies there for speed, and may go with the bundle."""
    return any(parent.name == FOLDER for parent in path.parents)


def machine_key(runtime_version: str) -> str:
    """Return what stands for this CPU and a library: what one packs, another may not read.

    Args:
        runtime_version: Of the library.
    """
    known = f"{runtime_version} {platform.machine()} {_cpu()}"
    return f"{zlib.crc32(known.encode()):08x}"


def content_key(path: Path) -> str:
    """Return size and checksum of a file's first and last bytes."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        checksum = zlib.crc32(stream.read(ENDS))
        stream.seek(max(0, size - ENDS))
        checksum = zlib.crc32(stream.read(ENDS), checksum)
    return f"{size}-{checksum:08x}"


def _cpu() -> str:
    """Return what chooses a library's kernels: the first core's model and features."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor()
    return "\n".join(sorted(set(_FEATURES.findall(text))))
