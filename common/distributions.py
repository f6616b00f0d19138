"""Which release of a distribution is installed.

``importlib.metadata`` answers that by parsing a file as an e-mail, for which it imports 1.8 MiB of
modules that nothing else here needs. The same stands in the name of the folder that every installer
makes beside the modules, ``NAME-VERSION.dist-info``
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/), so that is
read first; what has no such folder (Debian's packages, archives) is left to ``importlib.metadata``.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

_SUFFIX = ".dist-info"


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None.

    Args:
        name: As on the package index, in any spelling that means the same: "ai-edge-litert".
    """
    wanted = _normalized(name)
    for folder in sys.path:
        with contextlib.suppress(OSError):  # entries may be missing, archives or unreadable
            for entry in Path(folder).glob(f"*{_SUFFIX}"):
                found, _, version = entry.name.removesuffix(_SUFFIX).partition("-")
                if version and _normalized(found) == wanted:
                    return version
    from importlib import metadata  # noqa: PLC0415 - see above

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _normalized(name: str) -> str:
    """Write a distribution's name as the specification of names does."""
    return re.sub("[-_.]+", "-", name).lower()
