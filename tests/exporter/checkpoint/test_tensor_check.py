"""One error names every tensor that is missing, unexpected or misshapen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgewise.exporter.checkpoint import CheckpointError, check_tensors


def tensors(**shapes: tuple[int, ...]) -> Any:
    return {
        name.replace("_dot_", "."): SimpleNamespace(shape=shape) for name, shape in shapes.items()
    }


def ignored(name: str) -> bool:
    return name.endswith("inv_freq")


def test_what_fits_passes() -> None:
    check_tensors(
        tensors(a=(2, 3), b=(4,), rotary_dot_inv_freq=(8,)), {"a": (2, 3), "b": (4,)}, ignored
    )


def test_all_faults_are_in_one_message() -> None:
    expected = {
        "model.q_proj.weight": (4, 4),
        "model.k_proj.weight": (2, 4),
        "model.norm.weight": (4,),
        "lm_head.weight": (9, 4),
    }
    given = {
        "model.q_proj.weights": SimpleNamespace(shape=(4, 4)),
        "model.norm.weight": SimpleNamespace(shape=(5,)),
        "lm_head.weight": SimpleNamespace(shape=(9, 4)),
        "vision.patch": SimpleNamespace(shape=(1,)),
    }
    with pytest.raises(CheckpointError) as caught:
        check_tensors(given, expected, ignored)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "The checkpoint's tensors are not those of the model: "
        "missing (2): model.q_proj.weight, model.k_proj.weight; "
        "unexpected (2): model.q_proj.weights (did you mean model.q_proj.weight?), vision.patch; "
        "misshapen (1): model.norm.weight is [5], not [4]."
    )


def test_every_name_is_there_however_many() -> None:
    expected = {f"layer.{number}.weight": (1,) for number in range(300)}
    given = {f"other.{number}": SimpleNamespace(shape=(1,)) for number in range(300)}
    with pytest.raises(CheckpointError) as caught:
        check_tensors(given, expected, ignored)  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in [*expected, *given])
