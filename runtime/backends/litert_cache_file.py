"""Where XNNPACK's packed weights of a bundle are kept between loads.

Workflow: `usable` gives a file that was finished before, or None; otherwise the engine packs into
`begin()` while it loads, and `finish` gives that file its final name. It saves most of the loading
time, and packed weights are then pages of a file instead of memory of the process.

Rules: a file's name tells the model's size and time, the runtime's version, the CPU, the file's own
size and a checksum of its ends, so that a file that is stale, cut short or of another machine is
never found; such files of the same model are deleted.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgewise.common.files import fsync_path
from edgewise.runtime.cache_folder import (
    bundle_cache_folder,
    content_key,
    machine_key,
    model_key,
)

SUFFIX, BUILDING = ".xnnpack", ".building"


class WeightCacheFile:
    """The place of one model's packed weights."""

    _folder: Path | None

    def __init__(self, model: Path, runtime_version: str) -> None:
        """Find a folder that can be written.

        Args:
            model: The .tflite file.
            runtime_version: Of the library that packs.
        """
        state = model.stat()
        self._folder = bundle_cache_folder(model.parent)
        self._model_key = "" if self._folder is None else model_key(self._folder, model)
        of_machine = machine_key(runtime_version)
        self._key = f"{self._model_key}-{state.st_size}-{state.st_mtime_ns}-{of_machine}"

    def usable(self) -> Path | None:
        """Return the finished file of exactly this model on this machine; delete others."""
        if self._folder is None:
            return None
        found = None
        for path in self._folder.glob(f"{self._model_key}-*{SUFFIX}"):
            if path.name == f"{self._key}-{content_key(path)}{SUFFIX}":
                found = path
            else:
                with contextlib.suppress(OSError):  # another process may have been faster
                    path.unlink()
        return found

    def begin(self) -> Path | None:
        """Return a new file to pack into, or None where nothing can be kept."""
        if self._folder is None:
            return None
        path = self._folder / f"{self._key}.{os.getpid()}{BUILDING}"
        path.unlink(missing_ok=True)
        return path

    def finish(self, building: Path) -> None:
        """Publish what was packed; a file that the engine did not write is no error."""
        if not building.exists():
            return
        fsync_path(building)
        final = building.with_name(f"{self._key}-{content_key(building)}{SUFFIX}")
        building.replace(final)

    def abandon(self, building: Path | None) -> None:
        """Remove a file whose packing failed."""
        if building is not None:
            building.unlink(missing_ok=True)
