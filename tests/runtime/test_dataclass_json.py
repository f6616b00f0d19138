import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest

from edgewise.runtime.dataclass_json import describe, read_dataclass


@dataclass(frozen=True)
class Inner:
    size: int = 5


@dataclass(frozen=True)
class Outer:
    name: str
    ratio: float
    on: bool
    kind: Literal["a", 1]
    inner: Inner | None
    items: tuple[Inner, ...]
    numbers: Mapping[str, int]
    anything: object


GOOD = {
    "name": "x",
    "ratio": 1,
    "on": True,
    "kind": 1,
    "inner": {"size": 3},
    "items": [{"size": 1}, {"size": 2}],
    "numbers": {"a": 1},
    "anything": [1, {"b": None}],
}


def read(value):
    problems: list[str] = []
    return read_dataclass(Outer, value, "outer", problems), problems


def test_every_understood_annotation():
    result, problems = read(GOOD)
    assert problems == []
    assert result == Outer(
        "x", 1.0, True, 1, Inner(3), (Inner(1), Inner(2)), {"a": 1}, [1, {"b": None}]
    )
    assert type(result.ratio) is float
    assert read(GOOD | {"inner": None})[0].inner is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": None}, "outer.name must be a string, not null"),
        ({"ratio": True}, "outer.ratio must be a number, not true"),
        ({"ratio": math.inf}, "outer.ratio must be a number, not Infinity"),
        ({"ratio": 10**400}, "outer.ratio is too large"),
        ({"on": 1}, "outer.on must be true or false, not 1"),
        ({"kind": True}, 'outer.kind is true; accepted: "a", 1'),
        ({"kind": "b"}, 'outer.kind is "b"; accepted: "a", 1'),
        ({"inner": 5}, "outer.inner must be an object, not 5"),
        ({"inner": {"size": 1, "x": 2}}, "outer.inner.x is unknown"),
        ({"inner": {}}, "outer.inner.size is missing"),
        ({"items": {}}, "outer.items must be a list, not an object"),
        ({"items": [{"size": 1}, 2]}, "outer.items[1] must be an object, not 2"),
        ({"numbers": []}, "outer.numbers must be an object, not a list"),
        ({"numbers": {"a": 1.0}}, "outer.numbers.a must be a whole number, not 1.0"),
    ],
)
def test_each_fault_is_named(change, problem):
    result, problems = read(GOOD | change)
    assert result is None
    assert problems == [problem]


def test_all_faults_are_listed():
    result, problems = read({"name": 1, "more": 2, "inner": {"size": "x"}})
    assert result is None
    assert "outer.more is unknown" in problems
    assert 'outer.inner.size must be a whole number, not "x"' in problems
    assert len([problem for problem in problems if problem.endswith("is missing")]) == 6
    assert read([])[1] == ["outer must be an object, not a list"]


def test_long_values_are_cut():
    assert describe("x" * 100) == '"' + "x" * 36 + "..."
