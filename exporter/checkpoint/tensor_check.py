"""Compares the tensors of a checkpoint with those a model declares: one error names every fault."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from edgewise.exporter.checkpoint.checkpoint import Tensor
from edgewise.exporter.checkpoint.errors import MOST_NAMES, CheckpointError


def check_tensors(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    ignored: Callable[[str], bool],
) -> None:
    """Refuse a checkpoint that lacks a tensor, has one too many, or has one of another shape.

    Args:
        tensors: What the checkpoint has, by Hugging Face's names.
        expected: The shape of each tensor that the model declares.
        ignored: Tells the names that may be there without being declared.

    Raises:
        CheckpointError: Naming all that is missing, unexpected (with the nearest missing name) or
            misshapen.
    """
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected and not ignored(name)]
    misshapen = [
        f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    parts = []
    if missing:
        parts.append(f"missing ({len(missing)}): {', '.join(missing)}")
    if unexpected:
        # Each comparison costs; past a screenful nobody reads the hints.
        hinted = [_with_hint(name, missing) for name in unexpected[:MOST_NAMES]]
        parts.append(
            f"unexpected ({len(unexpected)}): {', '.join([*hinted, *unexpected[MOST_NAMES:]])}"
        )
    if misshapen:
        parts.append(f"misshapen ({len(misshapen)}): {', '.join(misshapen)}")
    if parts:
        raise CheckpointError(
            f"The checkpoint's tensors are not those of the model: {'; '.join(parts)}."
        )


def _with_hint(name: str, missing: list[str]) -> str:
    near = difflib.get_close_matches(name, missing, n=1, cutoff=0.8)
    return f"{name} (did you mean {near[0]}?)" if near else name
