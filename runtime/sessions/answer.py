"""From the steps of an engine to the pieces of an answer: text, its end, and its figures.

Workflow: a session gives steps, one for each chunk of the prompt and one for each token;
`pieces_of` makes text of them, ends it at a stop text, and measures; `collect` puts a whole answer
together.

Rules: closing the pieces closes the steps. What the consumer does between two pieces takes no time
in the figures. The last item comes when the steps have been closed, so that the engine is free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from time import perf_counter
from typing import NamedTuple

from edgewise.runtime.answer_text import next_text
from edgewise.runtime.detokenizer import Detokenizer
from edgewise.runtime.generation import FinishReason, Generation, Piece, Statistics
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.stop import StopTexts


class Step(NamedTuple):
    """What one step of the engine gave."""

    token_id: int | None  # None: a chunk of the prompt was read and more follows
    finished: FinishReason | None


def stop_texts(options: GenerationOptions, of_format: Sequence[str]) -> tuple[str, ...]:
    """Return the caller's stop texts, and those of the bundle's prompt format.

    A raw prompt keeps to no format, so that only the caller's end its answer.
    """
    return tuple(dict.fromkeys((*options.stop, *(() if options.raw else of_format))))


def pieces_of(
    steps: Generator[Step, None, None],
    detokenizer: Detokenizer,
    stop: StopTexts,
    *,
    prompt_tokens: int,
    encoding_seconds: float = 0.0,
) -> Generator[Piece, None, None]:
    """Make an answer of steps.

    Args:
        steps: The last one, and only it, has ``finished``; its token is no text where it is "stop".
        detokenizer: At the beginning of the answer.
        stop: At the beginning of the answer.
        prompt_tokens: For the figures.
        encoding_seconds: What making the prompt's ids took; part of the time to first token.

    Yields:
        The pieces; see `Piece`.
    """
    begin = perf_counter()
    generated = 0
    spent = encoding_seconds  # seconds, the consumer's left out
    first = 0.0  # seconds until the first token
    with contextlib.closing(steps):
        for token_id, step_finished in steps:
            if token_id is None:
                spent += perf_counter() - begin
                yield Piece("", ())
                begin = perf_counter()
                continue
            generated += 1
            token_ids = (token_id,)
            text, finished = next_text(
                detokenizer, stop, token_id, step_finished, is_text=step_finished != "stop"
            )
            spent += perf_counter() - begin
            if generated == 1:
                first = spent
            if finished is not None:
                break
            yield Piece(text, token_ids)
            begin = perf_counter()
    yield Piece(
        text,
        token_ids,
        finished,
        Statistics.measured(prompt_tokens, generated, first_seconds=first, seconds=spent),
    )


def collect(pieces: Generator[Piece, None, None]) -> Generation:
    """Put the pieces of a whole generation together."""
    texts: list[str] = []
    token_ids: list[int] = []
    with contextlib.closing(pieces):
        for piece in pieces:
            texts.append(piece.text)
            token_ids += piece.token_ids
            if piece.finished is not None and piece.statistics is not None:
                return Generation(
                    "".join(texts), tuple(token_ids), piece.finished, piece.statistics
                )
    raise ValueError("the pieces end before the generation has finished")
