"""Files that are there whole or not at all.

Workflow: write to a temporary sibling, fsync it, rename it over the target, fsync the folder. A
power cut leaves the old content or the new, never a part. Rules: the temporary name lies in the
target's own folder (a rename across file systems is a copy); what fails is cleaned up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

HASH_CHUNK = 1 << 20  # bytes read at once while hashing
_HERE = -100  # AT_FDCWD of <fcntl.h>
_RENAME_EXCHANGE = 2  # of <linux/fs.h>


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content`` in one step.

    Args:
        path: The file to write; its folder must exist.
        content: The whole new content.
        mode: Permission bits of the new file.
    """
    temporary = _temporary_sibling(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``path`` when the block ends without an exception.

    An existing ``path`` is replaced in one step where the file system can exchange two names
    (renameat2(2): ext4, XFS, Btrfs, tmpfs). Elsewhere it is moved aside for a moment, and moved
    back if the new one can not take its place.

    Args:
        path: The folder to publish; missing parents are made.

    Yields:
        The temporary folder to write into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in sorted(temporary.rglob("*")):
            fsync_path(entry)
        fsync_path(temporary)
        if path.exists():
            _replace_folder(temporary, path)
        else:
            temporary.rename(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, old: Path) -> None:
    """Give ``new`` the name of ``old``, which ends as ``new`` or is deleted."""
    if _exchange(new, old):
        return
    aside = _temporary_sibling(old)
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the C library or the file system can not."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return bool(renameat2(_HERE, names[0], _HERE, names[1], _RENAME_EXCHANGE) == 0)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 lower-case hexadecimal digits."""
    import hashlib  # noqa: PLC0415  # takes the OpenSSL library into memory; few loads verify

    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
