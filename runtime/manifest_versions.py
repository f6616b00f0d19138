"""Manifests of older versions, converted while they are read.

Rule: a converter turns the JSON of its version into that of the next one and judges nothing else;
the checks of the newest version judge what comes out. Bundles of every version that was ever
published stay readable, so a converter is never changed once its version is out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

FORMAT_VERSION = 3  # what is written

_NEW_IN_2: Mapping[str, object] = {
    "family": "decoder",
    "source_length": None,
    "outputs": ["logits"],
    "labels": [],
    "pooling": None,
    "image": None,
    "stop": [],
}
_CACHE_NEW_IN_2: Mapping[str, object] = {"update": "in_place"}
_TOKENS_NEW_IN_2: Mapping[str, object] = {
    "start": None,
    "mask": None,
    "separator": None,
    "separators_between": 1,
    "ends_source": True,
    "forced_first": None,
    "forced_last": None,
}
_NEW_IN_3: Mapping[str, object] = {"calibration": None, "prefixes": {}}
# What version 2 was given while exports already wrote it: they lack it or have it.
_LATE_IN_2: Mapping[str, object] = {"stop": []}
_TOKENS_LATE_IN_2: Mapping[str, object] = {
    name: _TOKENS_NEW_IN_2[name] for name in ("ends_source", "forced_first", "forced_last")
}
# The same of version 3.
_CALIBRATION_LATE_IN_3: Mapping[str, object] = {"smoothed": {}}


def converted(value: Mapping[str, object], where: str, problems: list[str]) -> Mapping[str, object]:
    """Return a decoded manifest as the newest version writes it.

    Args:
        value: What stands in the file; its ``format_version`` is one that was published.
        where: How to name the manifest in a fault.
        problems: Faults are appended here, each a clause that begins with the field's name.
    """
    version = value["format_version"]
    for older in range(int(str(version)), FORMAT_VERSION):
        value = {**_CONVERTERS[older](value, where, problems), "format_version": older + 1}
    calibration = value.get("calibration")
    if isinstance(calibration, dict):
        value = {**value, "calibration": {**_CALIBRATION_LATE_IN_3, **calibration}}
    return value


def _from_1(value: Mapping[str, object], where: str, problems: list[str]) -> Mapping[str, object]:
    """Version 1 knew decoders only, and one task."""
    new = (*_NEW_IN_2, "tasks", "sampled_vocabulary")
    problems += [f"{where}.{name} is unknown in version 1" for name in new if name in value]
    result = {name: field for name, field in value.items() if name != "task"} | dict(_NEW_IN_2)
    if "task" in value:
        result["tasks"] = [value["task"]]
    if "vocabulary_size" in value:
        result["sampled_vocabulary"] = value["vocabulary_size"]
    cache = value.get("cache")
    if isinstance(cache, dict):
        result["cache"] = {**cache, **_CACHE_NEW_IN_2}
    tokens = value.get("tokens")
    if isinstance(tokens, dict):
        result["tokens"] = {**tokens, **_TOKENS_NEW_IN_2}
    return result


def _from_2(value: Mapping[str, object], where: str, problems: list[str]) -> Mapping[str, object]:
    """Version 2 knew no calibration, and no texts that say what is to be done."""
    problems += [f"{where}.{name} is unknown in version 2" for name in _NEW_IN_3 if name in value]
    result = {**_LATE_IN_2, **value, **_NEW_IN_3}
    for name, late in (("cache", _CACHE_NEW_IN_2), ("tokens", _TOKENS_LATE_IN_2)):
        part = value.get(name)
        if isinstance(part, dict):
            result[name] = {**late, **part}
    return result


_CONVERTERS: Mapping[
    int, Callable[[Mapping[str, object], str, list[str]], Mapping[str, object]]
] = {1: _from_1, 2: _from_2}
