"""``edgewise run``: an answer, or a conversation, from a bundle on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, figures
from edgewise.cli.answer import pieces_of
from edgewise.cli.chat import chat
from edgewise.cli.parameters import (
    bundle_argument,
    context_option,
    examples,
    generation_options,
    generation_settings,
    json_option,
    prompt_with_system,
    threads_option,
)

if TYPE_CHECKING:
    from edgewise.runtime import Generation, Piece, Statistics


@click.command(
    short_help="Answer a prompt, or hold a conversation.",
    epilog=examples(
        'edgewise run smollm2 "What is the capital of France?"',
        "edgewise run smollm2",
        "cat question.txt | edgewise run smollm2 --max-tokens 100 -",
        'edgewise run smollm2 "Once upon a time" --raw --temperature 0.8 --seed 1',
        'edgewise run smollm2 "Name a river." --system "Answer in one word." --json',
    ),
)
@bundle_argument
@click.argument("prompt", required=False)
@generation_options
@threads_option
@context_option
@json_option
@click.option("--stream", is_flag=True, help="With --json: one line of JSON a piece, as it comes.")
def run(
    *,
    bundle: Path,
    prompt: str | None,
    system: str | None,
    threads: int | None,
    context: int | None,
    as_json: bool,
    stream: bool,
    **generation: Any,
) -> None:
    """Answer PROMPT with the model in the folder BUNDLE.

    Without PROMPT, or with -, standard input is the prompt; at a terminal a conversation begins
    instead. The text goes to stdout as it is made, the figures to stderr.
    """
    from edgewise.runtime import (
        GenerationOptions,
        LanguageModel,
        SequenceModel,
        TaskError,
        load,
    )
    from edgewise.runtime.sessions.answer import collect

    options = GenerationOptions(**generation_settings(generation))
    text = console.read_prompt(prompt)
    if text is None and as_json:
        raise click.UsageError("--json needs a PROMPT, or one on standard input.")
    given = None if text is None else prompt_with_system(text, system, raw=options.raw)
    with console.status("Loading the model"):
        model = load(bundle, threads=threads, context_length=context)
    with model:
        if not isinstance(model, LanguageModel | SequenceModel):
            raise TaskError(f"{model.manifest.model_id} generates no text.")
        if given is None:
            chat(model, options, system)
        elif as_json and stream:
            stream_json(pieces_of(model, given, options))
        elif as_json:
            console.write_json(
                generation_json(collect(pieces_of(model, given, options))), one_line=True
            )
        else:
            stream_text(pieces_of(model, given, options))


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


def stream_json(pieces: Generator[Piece, None, None]) -> None:
    """Write an answer to stdout as lines of JSON: one for each token."""
    with contextlib.closing(pieces):
        for piece in pieces:
            console.write_json(
                {
                    "text": piece.text,
                    "token_ids": list(piece.token_ids),
                    "finish_reason": piece.finished,
                    "statistics": statistics_json(piece.statistics),
                },
                one_line=True,
            )


def generation_json(generation: Generation) -> dict[str, Any]:
    """Return a whole answer in the types of JSON."""
    return {
        "text": generation.text,
        "token_ids": list(generation.token_ids),
        "finish_reason": generation.finish_reason,
        "statistics": statistics_json(generation.statistics),
    }


def statistics_json(statistics: Statistics | None) -> dict[str, Any] | None:
    """Return the figures of a generation in the types of JSON."""
    return None if statistics is None else dataclasses.asdict(statistics)


def statistics_line(statistics: Statistics, finished: str | None) -> str:
    """Write the figures of a generation on one line."""
    ended = ", cut off at the limit" if finished == "length" else ""
    return (
        f"[{figures.plural(statistics.prompt_tokens, 'prompt token')}, "
        f"{statistics.generated_tokens} generated{ended} | "
        f"first token after {figures.seconds(statistics.time_to_first_token_seconds)} | "
        f"prefill {figures.rate(statistics.prefill_tokens_per_second)}, "
        f"decode {figures.rate(statistics.decode_tokens_per_second)} | "
        f"peak memory {figures.mebibytes(statistics.peak_rss_bytes)}]"
    )
