"""A bundle on the disk: the folder that the exporter publishes and a device loads.

Workflow: `describe_file` and `write_manifest` make one; `open_bundle` checks one and gives a
`Bundle`, whose `file` finds a file by its role. The manifest's fields are in manifest.py.

Rules: standard library only. A bundle may come from anywhere, so nothing in it is believed before
it is checked: the manifest's size is limited, no file may lie outside the folder (by ``..``, an
absolute path or a symbolic link), sizes are compared always, hashes when asked for.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from edgewise.common.files import sha256_of_file, write_atomically
from edgewise.runtime.manifest import (
    MANIFEST_MAX_BYTES,
    SAMPLE_MOMENT,
    BundleError,
    BundleFile,
    CacheLayout,
    CacheUpdate,
    Calibration,
    ChatSample,
    Family,
    ImageLayout,
    Manifest,
    Origin,
    RuntimeName,
    SpecialTokens,
    Task,
    TokenizerProbe,
    decoder_cache,
    logits_size,
    manifest_from_json,
    manifest_to_json,
    source_size,
)
from edgewise.runtime.manifest_checks import CACHE_AXES, FILE_ROLES
from edgewise.runtime.manifest_versions import FORMAT_VERSION
from edgewise.runtime.options import SamplingDefaults

__all__ = [
    "CACHE_AXES",
    "FILE_ROLES",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "SAMPLE_MOMENT",
    "Bundle",
    "BundleError",
    "BundleFile",
    "CacheLayout",
    "CacheUpdate",
    "Calibration",
    "ChatSample",
    "Family",
    "ImageLayout",
    "Manifest",
    "Origin",
    "RuntimeName",
    "SamplingDefaults",
    "SpecialTokens",
    "Task",
    "TokenizerProbe",
    "decoder_cache",
    "describe_file",
    "logits_size",
    "open_bundle",
    "source_size",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A checked bundle."""

    path: Path  # absolute, symbolic links resolved
    manifest: Manifest

    def has(self, role: str) -> bool:
        """Tell whether the bundle has a file with this role."""
        return any(file.role == role for file in self.manifest.files)

    def file(self, role: str) -> Path:
        """Return the path of the file with this role.

        Raises:
            BundleError: The bundle has no such file.
        """
        for file in self.manifest.files:
            if file.role == role:
                return self.path / file.path
        present = ", ".join(file.role for file in self.manifest.files)
        raise BundleError(f"{self.path} has no file with the role {role}, only {present}")

    def read_text(self, role: str) -> str:
        """Return the content of a UTF-8 text file.

        Raises:
            BundleError: The bundle has no such file, or it is no UTF-8.
        """
        path = self.file(role)
        try:
            return path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} can not be read as UTF-8 text: {error}") from error


def open_bundle(path: str | os.PathLike[str], *, verify_hashes: bool = False) -> Bundle:
    """Open and check a bundle.

    Args:
        path: The bundle's folder.
        verify_hashes: Also compare every file's SHA-256 (reads the whole bundle once).

    Raises:
        BundleError: The folder or a file is missing, a file has another size (or hash) than the
            manifest says or lies outside the folder, the manifest is not usable, or the bundle
            was made by a newer Edgewise. All faulty files stand in one error.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(
            f"{folder} is not a folder; give the folder of a bundle, as `edgewise export` writes it"
        )
    folder = folder.resolve()
    manifest = manifest_from_json(_read_manifest(folder), str(folder / MANIFEST_NAME))
    problems = [
        problem
        for file in manifest.files
        if (problem := _file_problem(folder, file, verify_hashes=verify_hashes))
    ]
    if problems:
        raise BundleError(
            f"the bundle {folder} is damaged: {'; '.join(problems)}; copy or export it again"
        )
    return Bundle(folder, manifest)


def describe_file(folder: Path, role: str, path: str) -> BundleFile:
    """Measure and hash a file for the manifest.

    Args:
        folder: The bundle's folder.
        role: One of FILE_ROLES.
        path: The file, relative to the folder, "/" between parts.
    """
    file = folder / path
    return BundleFile(role, path, file.stat().st_size, sha256_of_file(file))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into a folder that holds the files already.

    Raises:
        BundleError: A listed file is missing or has another size, or a field has a wrong type.
    """
    problems = [
        problem
        for file in manifest.files
        if (problem := _file_problem(folder.resolve(), file, verify_hashes=False))
    ]
    if problems:
        raise BundleError(f"the manifest does not fit {folder}: {'; '.join(problems)}")
    write_atomically(folder / MANIFEST_NAME, manifest_to_json(manifest))


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as stream:
            content = stream.read(MANIFEST_MAX_BYTES + 1)
    except OSError as error:
        raise BundleError(
            f"{folder} has no readable {MANIFEST_NAME} ({error.strerror}); give the folder of a"
            " bundle, as `edgewise export` writes it"
        ) from error
    if len(content) > MANIFEST_MAX_BYTES:
        raise BundleError(f"{path} has more than {MANIFEST_MAX_BYTES} bytes: it is no manifest")
    return content


def _file_problem(folder: Path, file: BundleFile, *, verify_hashes: bool) -> str | None:
    """Say what is wrong with a file, or None. ``folder`` is resolved."""
    try:
        resolved = (folder / file.path).resolve(strict=True)
        status = resolved.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of symbolic links, before Python 3.13
        return f"{file.path} is missing"
    if not resolved.is_relative_to(folder):
        return f"{file.path} is a link that leads out of the bundle"
    if not stat.S_ISREG(status.st_mode):
        return f"{file.path} is no regular file"
    if status.st_size != file.bytes:
        return f"{file.path} has {status.st_size} bytes, the manifest says {file.bytes}"
    if verify_hashes and sha256_of_file(resolved) != file.sha256:
        return f"{file.path} has another content (SHA-256) than the manifest says"
    return None
