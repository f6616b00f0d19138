"""An answer as it comes: the pieces of a model, with a bar while a long prompt is read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

from edgewise.cli import console, interrupts
from edgewise.cli.progress import StageBars

if TYPE_CHECKING:
    from edgewise.runtime import GenerationOptions, LanguageModel, Piece, SequenceModel

Prompt = str | list[dict[str, str]]


def pieces_of(
    model: LanguageModel | SequenceModel, prompt: Prompt, options: GenerationOptions
) -> Generator[Piece, None, None]:
    """Generate, showing at a terminal how much of the prompt has been read.

    Args:
        model: The loaded model.
        prompt: As `LanguageModel.stream` takes it.
        options: How to generate.

    Yields:
        The pieces that have tokens; closing the generator cancels.

    Raises:
        EdgewiseError: As `LanguageModel.stream`.
    """
    from edgewise.runtime.sessions.decoder import PREFILL_CHUNK

    pieces = model.stream(prompt, options)
    with contextlib.closing(pieces), contextlib.ExitStack() as stack:
        bars = stack.enter_context(StageBars({"prompt": "reading the prompt"}, leave=False))
        total = 0
        if console.is_terminal(sys.stderr):
            total = model.count_tokens(prompt, raw=options.raw)
            bars("prompt", 0, total)
        chunks = 0
        for piece in pieces:
            interrupts.check()
            if not piece.token_ids:
                chunks += 1
                bars("prompt", min(chunks * PREFILL_CHUNK, total), total)
                continue
            stack.close()  # the bar goes before the first text comes
            yield piece
