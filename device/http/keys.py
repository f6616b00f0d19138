"""The keys that clients show, from a file that nobody else can read.

Rules: one key a line; empty lines and those that begin with # are none. Keys are compared by their
digests, each with all, so that the time taken tells nothing about them. None is ever logged.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from edgewise.device.errors import DeviceError

FILE_MAX_BYTES = 64 << 10  # bytes
_KEY = re.compile(r"[!-~]{16,256}")
_FORM = "16 to 256 visible ASCII characters, as `openssl rand -hex 32` gives"


class Keys:
    """Who may ask."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take some keys.

        Raises:
            DeviceError: There is none, or one is too short to be a secret; no key is shown.
        """
        if not keys:
            raise DeviceError(f"there are no keys; give at least one, of {_FORM}")
        for number, key in enumerate(keys, 1):
            if not _KEY.fullmatch(key):
                raise DeviceError(f"key {number} can not be used; accepted: {_FORM}")
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Read a key file.

        Raises:
            DeviceError: It is missing, can be read by others, or holds what is no key.
        """
        try:
            with path.open("rb") as stream:
                _check_owner(path, os.fstat(stream.fileno()))
                content = stream.read(FILE_MAX_BYTES + 1)
        except OSError as error:
            raise DeviceError(
                f"the key file {path} can not be read ({error.strerror}); give a file with one "
                "key a line"
            ) from error
        if len(content) > FILE_MAX_BYTES:
            raise DeviceError(
                f"the key file {path} is too large; accepted: {FILE_MAX_BYTES} bytes of keys"
            )
        try:
            lines = [line.strip() for line in content.decode("ascii").splitlines()]
            return cls([line for line in lines if line and not line.startswith("#")])
        except (UnicodeDecodeError, DeviceError) as error:
            reason = str(error) if isinstance(error, DeviceError) else f"a key is {_FORM}"
            raise DeviceError(f"in the key file {path}, {reason}") from error

    def owner(self, authorization: str | None) -> str | None:
        """Return a name for the client that shows a key; None: it shows none of ours.

        Args:
            authorization: The header's value, "Bearer KEY".
        """
        scheme, _, shown = (authorization or "").partition(" ")
        digest = _digest(shown.strip().encode())
        found = [
            number
            for number, known in enumerate(self._digests, 1)
            if hmac.compare_digest(known, digest)
        ]
        return f"key {found[0]}" if found and scheme.lower() == "bearer" else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DeviceError(f"the key file {path} is no file; give one with a key a line")
    if status.st_mode & 0o077 or status.st_uid not in {0, os.geteuid()}:
        raise DeviceError(
            f"the key file {path} (mode {stat.S_IMODE(status.st_mode):04o}, owner "
            f"{status.st_uid}) is open to others; `chmod 600` it, and let it belong to the user "
            "that serves"
        )
