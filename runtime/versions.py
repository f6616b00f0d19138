"""Whether what is installed is new enough for a bundle.

Rules: standard library only. Only a version's release numbers count: "1.22.0rc1+gpu" is 1.22.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgewise.common.distributions import installed_version
from edgewise.runtime.manifest import BundleError

# Distributions that hold the same module as the one named in a manifest.
_ALTERNATIVES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn"),
}


def check_minimum_versions(minimum_versions: Mapping[str, str]) -> None:
    """Compare a manifest's minimum versions with what is installed.

    Raises:
        BundleError: A distribution is missing or too old; all of them stand in one error, with
            the command that installs them.
    """
    problems, wanted = [], []
    for name, minimum in minimum_versions.items():
        installed = _installed_version(name)
        if installed is None or _release(installed) < _release(minimum):
            problems.append(f"{name} {minimum} (here: {installed or 'none'})")
            wanted.append(f"'{name}>={minimum}'")
    if problems:
        raise BundleError(
            f"the bundle needs at least {', '.join(problems)}: pip install {' '.join(wanted)}"
        )


def _installed_version(name: str) -> str | None:
    found = map(installed_version, _ALTERNATIVES.get(name, (name,)))
    return next((version for version in found if version is not None), None)


def _release(version: str) -> tuple[int, ...]:
    """Return the release numbers, without trailing zeros so that 1.22 equals 1.22.0."""
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    if match is None:
        raise BundleError(f"{version!r} is no version; accepted: numbers with dots, such as 1.22")
    numbers = [int(number) for number in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
