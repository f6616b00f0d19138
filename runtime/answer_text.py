"""The text of an answer, token by token: characters that are whole, until a stop text ends it."""

from __future__ import annotations

from edgewise.runtime.detokenizer import Detokenizer
from edgewise.runtime.generation import FinishReason
from edgewise.runtime.stop import StopTexts


def next_text(
    detokenizer: Detokenizer,
    stop: StopTexts,
    token_id: int,
    finished: FinishReason | None,
    *,
    is_text: bool,
) -> tuple[str, FinishReason | None]:
    """Take the next token of an answer.

    Args:
        detokenizer: Of the answer.
        stop: Of the answer.
        token_id: The token.
        finished: Why the answer ends with it; None: it goes on.
        is_text: Whether the token is part of the text, as an end token is not.

    Returns:
        What can be shown now, and why the answer ends, which a stop text may have decided.
    """
    text = detokenizer.push(token_id) if is_text else ""
    if finished is not None:
        text += detokenizer.finish()
    text, is_stopped = stop.push(text)
    if is_stopped:
        return text, "stop"
    if finished is not None:
        text += stop.finish()
    return text, finished
