"""``edgewise run``: an answer, or a conversation, from a bundle on this machine.

Workflow: the bundle's manifest says which tasks there are; ``--task``, or else the first of them,
decides whether text is generated (answer.py, chat.py) or texts are judged (text_answers.py). An
option that has no meaning for the task is refused, so that it is not ignored unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from edgewise.cli import console
from edgewise.cli.answer import (
    Prompt,
    generation_json,
    pieces_of,
    show_several,
    stream_json,
    stream_text,
)
from edgewise.cli.chat import chat
from edgewise.cli.generation import (
    generation_options,
    generation_settings,
    refuse_logprobs_without_json,
)
from edgewise.cli.parameters import (
    PATH,
    bundle_argument,
    context_option,
    draft_option,
    examples,
    json_option,
    lookup_option,
    prompt_with_system,
    threads_option,
)
from edgewise.cli.text_answers import (
    TOP,
    answer_to,
    file_option,
    refuse_without_meaning,
    show_or_write,
    text_pair_option,
    top_option,
    write_lines,
)
from edgewise.cli.text_lines import Line, lines_to_judge

if TYPE_CHECKING:
    from edgewise.runtime import GenerationOptions, LanguageModel, SequenceModel
    from edgewise.runtime.loading import AnyModel

MOST_TOGETHER = 8  # answers that are computed at the same time, each with a cache of its own


@click.command(
    short_help="Answer a prompt or judge a text, or hold a conversation.",
    epilog=examples(
        'edgewise run smollm2 "What is the capital of France?"',
        "edgewise run smollm2",
        "cat question.txt | edgewise run smollm2 --max-tokens 100 -",
        'edgewise run smollm2 "Once upon a time" --raw --temperature 0.8 --seed 1',
        'edgewise run smollm2 "Name a river." --system "Answer in one word." --json',
        'edgewise run smollm2 "Name a river." --choice Rhine --choice Nile',
        'edgewise run smollm2 "The cellar has 9 degrees." --schema reading.json',
        'edgewise run flan-t5 "Translate to German: The house is small." --beams 4',
        'edgewise run t5-small "The house is small." --task translation-en-to-de',
        'edgewise run moods "I have never eaten better." --top 2',
        "edgewise run moods --file comments.txt",
        'edgewise run bert "Paris is the [MASK] of France."',
        'edgewise run minilm "A cat sleeps." --text-pair "The cat is tired." --task embed',
    ),
)
@bundle_argument
@click.argument("text", required=False)
@click.option(
    "--task",
    metavar="TASK",
    help="What to do with the text, one of the bundle's tasks (see inspect); by default the first.",
)
@text_pair_option
@top_option
@file_option
@click.option(
    "--image",
    "images",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="An image that the text is about; may be given several times.",
)
@generation_options
@threads_option
@context_option
@lookup_option
@draft_option
@json_option
@click.option(
    "--n",
    "count",
    type=int,
    metavar="N",
    help="Give N sampled answers, each with a seed of its own; their prompt is computed once.",
)
@click.option("--stream", is_flag=True, help="With --json: one line of JSON a piece, as it comes.")
def run(
    *,
    bundle: Path,
    text: str | None,
    task: str | None,
    text_pair: str | None,
    top: int | None,
    file: Path | None,
    images: tuple[Path, ...],
    system: str | None,
    threads: int | None,
    context: int | None,
    prompt_lookup: bool,
    draft_model: Path | None,
    as_json: bool,
    stream: bool,
    count: int | None,
    **generation: Any,
) -> None:
    """Answer TEXT with the model in the folder BUNDLE.

    A model that writes answers with a text, others with labels, words for a mask, a vector or
    scores. Without TEXT, or with -, standard input is read: as one prompt where text is generated,
    else as a text a line; at a terminal a conversation begins instead. Answers go to stdout,
    figures to stderr.
    """
    from edgewise.runtime import GenerationOptions, load, open_bundle, resolve_task
    from edgewise.runtime.judging import judge

    manifest = open_bundle(bundle).manifest
    wanted, prefix = resolve_task(manifest, task)
    if images and manifest.family != "vision_language":
        raise click.UsageError(f"--image has no place: {manifest.model_id} sees no images.")
    only_judging = {"text_pair": text_pair, "top": top, "file": file}
    only_generating = {**generation, "system": system, "stream": stream, "count": count}
    refuse_without_meaning(wanted, only_judging if wanted == "generate" else only_generating)
    options = GenerationOptions(**generation_settings(generation))
    refuse_logprobs_without_json(options, as_json=as_json)
    prompt = None
    lines: Iterator[Line] | None = None
    if wanted == "generate":
        prompt = _prompt(text, system, options, prefix, as_json=as_json)
        if count is not None:
            _check_count(manifest.family, prompt, stream=stream)
    else:
        lines = lines_to_judge(text, text_pair, file)
    with console.status("Loading the model"):
        slots = max(options.beams, min(count or 1, MOST_TOGETHER))
        model = load(
            bundle,
            threads=threads,
            context_length=context,
            slots=slots,
            prompt_lookup=prompt_lookup,
            draft_model=draft_model,
        )
    with model:
        if count is not None and prompt is not None:
            _generate_several(
                cast("LanguageModel", model), prompt, options, count, images, as_json=as_json
            )
        elif wanted == "generate":
            _generate(model, prompt, options, images, system, as_json=as_json, stream=stream)
        else:
            ask = partial(judge, model, wanted, top=top or TOP)
            if lines is not None:
                write_lines(ask, wanted, lines)
            else:
                answer = answer_to(ask, wanted, text or "", text_pair)
                show_or_write(answer, as_json=as_json)


def _prompt(
    text: str | None, system: str | None, options: GenerationOptions, prefix: str, *, as_json: bool
) -> Prompt | None:
    """Read what is to be answered; None where a person at a terminal gave nothing."""
    prompt = console.read_prompt(text)
    if prompt is None:
        if as_json or prefix:
            given = "--json" if as_json else "--task, which begins a text with words of its own,"
            raise click.UsageError(f"{given} needs a TEXT, or one on standard input.")
        return None
    return prompt_with_system(prefix + prompt, system, raw=options.raw)


def _generate(
    model: AnyModel,
    prompt: Prompt | None,
    options: GenerationOptions,
    images: Sequence[Path],
    system: str | None,
    *,
    as_json: bool,
    stream: bool,
) -> None:
    from edgewise.runtime.sessions.answer import collect

    generator = cast("LanguageModel | SequenceModel", model)  # which is what has the task
    if prompt is None:
        chat(generator, options, system, images)
        return
    pieces = pieces_of(generator, prompt, options, images)
    if as_json and stream:
        stream_json(pieces, generator.tokenizer)
    elif as_json:
        console.write_json(generation_json(collect(pieces), generator.tokenizer), one_line=True)
    else:
        stream_text(pieces)


def _check_count(family: str, prompt: Prompt | None, *, stream: bool) -> None:
    """Refuse several answers where there is no place for them."""
    if prompt is None:
        raise click.UsageError("--n needs a TEXT, or one on standard input.")
    if stream:
        raise click.UsageError("--n gives whole answers, so --stream has no place.")
    if family not in ("decoder", "vision_language"):
        raise click.UsageError("--n has a place only where a decoder answers a text.")


def _generate_several(
    model: LanguageModel,
    prompt: Prompt,
    options: GenerationOptions,
    count: int,
    images: Sequence[Path],
    *,
    as_json: bool,
) -> None:
    seen: dict[str, Any] = {"images": images} if images else {}
    answers = model.generate_several(prompt, options, count=count, **seen)
    if as_json:
        values = [generation_json(answer, model.tokenizer) for answer in answers]
        console.write_json(values, one_line=True)
    else:
        show_several(answers)
