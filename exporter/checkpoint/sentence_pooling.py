"""Which states make the vector of a text: what sentence-transformers stores beside a checkpoint.

The file is ``1_Pooling/config.json``. Older releases write a switch for each mode
(``pooling_mode_mean_tokens``), newer ones a name (``pooling_mode``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from edgewise.exporter.checkpoint.errors import CheckpointError

Pooling = Literal["mean", "first"]
POOLING_FILE = "1_Pooling/config.json"
_SWITCH = "pooling_mode_"
_MODES: Mapping[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "first",
    "cls_token": "first",
}


def sentence_pooling(content: Mapping[str, Any]) -> Pooling:
    """Read how the states of a text become one vector.

    Args:
        content: Of the file.

    Raises:
        CheckpointError: It names what no bundle can do.
    """
    modes = _modes(content)
    if len(modes) == 1 and modes[0] in _MODES:
        return _MODES[modes[0]]
    raise CheckpointError(
        f"{POOLING_FILE} makes a text's vector by {' and '.join(modes) or 'nothing'}; a bundle "
        "takes the mean of all tokens (pooling_mode_mean_tokens) or the first token "
        "(pooling_mode_cls_token). Write there what comes nearest, or take another checkpoint"
    )


def _modes(content: Mapping[str, Any]) -> list[str]:
    named = content.get("pooling_mode")
    if isinstance(named, str):
        return [named]
    return [
        name.removeprefix(_SWITCH)
        for name, switched_on in content.items()
        if name.startswith(_SWITCH) and switched_on is True
    ]
