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

from edgewise.runtime.generation import Generation, Piece
from edgewise.runtime.options import GenerationOptions


def stop_texts(options: GenerationOptions, of_format: Sequence[str]) -> tuple[str, ...]:
    """Return the caller's stop texts, and those of the bundle's prompt format.

    A raw prompt keeps to no format, so that only the caller's end its answer.
    """
    return tuple(dict.fromkeys((*options.stop, *(() if options.raw else of_format))))


def collect(pieces: Generator[Piece, None, None]) -> Generation:
    """Put the pieces of a whole generation together."""
    (generation,) = collect_all([pieces])
    return generation


def collect_all(streams: Sequence[Generator[Piece, None, None]]) -> tuple[Generation, ...]:
    """Put the pieces of several generations together, which are computed at the same time.

    Each has its turn for a piece: whichever is asked computes for all that have begun.
    """
    found: list[list[Piece]] = [[] for _ in streams]
    with contextlib.ExitStack() as stack:
        for stream in streams:
            stack.enter_context(contextlib.closing(stream))
        unfinished = list(zip(streams, found, strict=True))
        while unfinished:
            for stream, pieces in unfinished:
                piece = next(stream, None)
                if piece is None:
                    raise ValueError("the pieces end before the generation has finished")
                pieces.append(piece)
            unfinished = [one for one in unfinished if one[1][-1].finished is None]
    return tuple(map(_put_together, found))


def _put_together(pieces: Sequence[Piece]) -> Generation:
    last = pieces[-1]
    if last.finished is None or last.statistics is None:
        raise ValueError("the last piece of a generation has no statistics")
    return Generation(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.token_ids),
        last.finished,
        last.statistics,
        tuple(told for piece in pieces for told in piece.log_probabilities),
    )
