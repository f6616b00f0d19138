"""``edgewise warm``: the beginning of prompts, computed once for every later answer."""

from __future__ import annotations

from pathlib import Path

import click

from edgewise.cli import console, figures
from edgewise.cli.console import PROMPT_MAX_BYTES
from edgewise.cli.parameters import (
    PATH,
    bundle_argument,
    examples,
    json_option,
    prompt_with_system,
    threads_option,
)


@click.command(
    short_help="Compute the beginning of prompts once, for every later answer.",
    epilog=examples(
        "edgewise warm smollm2 --prompt instructions.txt",
        'edgewise warm smollm2 --system "You watch a greenhouse. Answer in one sentence."',
        "edgewise warm smollm2 --prompt few-shot.txt --raw --json",
    ),
)
@bundle_argument
@click.option("--prompt", type=PATH, metavar="FILE", help="How prompts begin, UTF-8 text.")
@click.option("--system", metavar="TEXT", help="What the model is told before every prompt.")
@click.option("--raw", is_flag=True, help="Of prompts that are continued without a chat template.")
@threads_option
@json_option
def warm(
    *,
    bundle: Path,
    prompt: Path | None,
    system: str | None,
    raw: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Save what the model in the folder BUNDLE computes for the beginning of prompts.

    Answers to prompts that begin so (by run, agent and serve, and in your own programs) then start
    without computing it. It is kept in the bundle's folder, or else in the user's cache folder, and
    is never used by another model. Deleting the file only costs time.
    """
    from edgewise.runtime import LanguageModel, ModelError, load

    if prompt is None and system is None:
        raise click.UsageError("Give --prompt FILE, --system TEXT, or both.")
    text = "" if prompt is None else console.read_text_file(prompt, PROMPT_MAX_BYTES)
    beginning = prompt_with_system(text.rstrip("\r\n"), system, raw=raw)
    with console.status("Loading the model"):
        model = load(bundle, threads=threads)
    with model:
        if not isinstance(model, LanguageModel):
            raise ModelError(
                f"{model.manifest.model_id} is an {model.manifest.family}, which keeps nothing of "
                "a prompt; accepted: a decoder"
            )
        with console.status("Computing"):
            saved = model.save_beginning(beginning, raw=raw)
    size = saved.path.stat().st_size
    if as_json:
        tokens = len(saved.tokens)
        console.write_json({"path": str(saved.path), "tokens": tokens, "bytes": size})
    else:
        tokens_text = figures.plural(len(saved.tokens), "token")
        console.write_line(f"Saved {tokens_text}, {figures.size(size)}: {saved.path}")
