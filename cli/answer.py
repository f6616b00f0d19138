"""A generated answer: its pieces as they come, and how they are written for people and machines."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise.cli import console, figures, interrupts
from edgewise.cli.progress import StageBars

if TYPE_CHECKING:
    from edgewise.runtime import (
        Generation,
        GenerationOptions,
        LanguageModel,
        Piece,
        SequenceModel,
        Statistics,
    )
    from edgewise.runtime.generation import TokenLogProbability
    from edgewise.runtime.tokenizer import Tokenizer

Prompt = str | list[dict[str, str]]


def pieces_of(
    model: LanguageModel | SequenceModel,
    prompt: Prompt,
    options: GenerationOptions,
    images: Sequence[Path] = (),
) -> Generator[Piece, None, None]:
    """Generate, showing at a terminal how much of the prompt has been read.

    Args:
        model: The loaded model.
        prompt: As `LanguageModel.stream` takes it.
        options: How to generate.
        images: What the prompt is about, for a model that sees.

    Yields:
        The pieces that have tokens; closing the generator cancels.

    Raises:
        EdgewiseError: As `LanguageModel.stream`.
    """
    from edgewise.runtime.chunks import PREFILL_CHUNK

    seen: dict[str, Any] = {"images": images} if images else {}
    pieces = model.stream(prompt, options, **seen)
    with contextlib.closing(pieces), contextlib.ExitStack() as stack:
        bars = stack.enter_context(StageBars({"prompt": "reading the prompt"}, leave=False))
        total = 0
        if console.is_terminal(sys.stderr):
            total = model.count_tokens(prompt, raw=options.raw, **seen)
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


def stream_text(pieces: Generator[Piece, None, None]) -> None:
    """Write an answer to stdout as it comes, and its figures to stderr."""
    begun = False
    last: Piece | None = None
    try:
        with contextlib.closing(pieces):
            for last in pieces:
                begun = begun or bool(last.text)
                console.write(last.text)
    finally:
        if begun:
            console.write("\n")
    if last is not None and last.statistics is not None:
        console.say(statistics_line(last.statistics, last.finished))


def stream_json(pieces: Generator[Piece, None, None], tokenizer: Tokenizer) -> None:
    """Write an answer to stdout as lines of JSON: one for each token."""
    with contextlib.closing(pieces):
        for piece in pieces:
            console.write_json(
                {
                    "text": piece.text,
                    "token_ids": list(piece.token_ids),
                    "finish_reason": piece.finished,
                    "statistics": statistics_json(piece.statistics),
                    **log_probabilities_json(piece.log_probabilities, tokenizer),
                },
                one_line=True,
            )


def generation_json(generation: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a whole answer in the types of JSON."""
    return {
        "text": generation.text,
        "token_ids": list(generation.token_ids),
        "finish_reason": generation.finish_reason,
        "statistics": statistics_json(generation.statistics),
        **log_probabilities_json(generation.log_probabilities, tokenizer),
    }


def log_probabilities_json(
    told: Sequence[TokenLogProbability], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return the field of log-probabilities in the types of JSON; none where nobody asked."""

    def one(token: int, value: float) -> dict[str, Any]:
        # A token may be half a character, and is shown as far as it is one.
        text = tokenizer.bytes_of(token).decode(errors="replace")
        return {"token_id": token, "text": text, "logprob": value}

    if not told:
        return {}
    tokens = [
        {
            **one(each.token_id, each.log_probability),
            "likeliest": [one(token, value) for token, value in each.likeliest],
        }
        for each in told
    ]
    return {"logprobs": tokens}


def show_several(answers: Sequence[Generation]) -> None:
    """Write answers to stdout, an empty line between them, and the figures of each to stderr."""
    for number, answer in enumerate(answers):
        console.write(f"\n{answer.text}\n" if number else f"{answer.text}\n")
        console.say(statistics_line(answer.statistics, answer.finish_reason))


def statistics_json(statistics: Statistics | None) -> dict[str, Any] | None:
    """Return the figures of a generation in the types of JSON."""
    return None if statistics is None else dataclasses.asdict(statistics)


def statistics_line(statistics: Statistics, finished: str | None) -> str:
    """Write the figures of a generation on one line."""
    ended = ", cut off at the limit" if finished == "length" else ""
    decoded = ""  # the first token is of the prompt's time
    if statistics.generated_tokens > 1:
        decoded = f", decode {figures.rate(statistics.decode_tokens_per_second)}"
    return (
        f"[{figures.plural(statistics.prompt_tokens, 'prompt token')}, "
        f"{statistics.generated_tokens} generated{ended} | "
        f"first token after {figures.seconds(statistics.time_to_first_token_seconds)} | "
        f"prefill {figures.rate(statistics.prefill_tokens_per_second)}{decoded} | "
        f"peak memory {figures.mebibytes(statistics.peak_rss_bytes)}]"
    )
