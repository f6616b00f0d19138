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
