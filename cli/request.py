"""``edgewise request``: ask an agent over MQTT, as a sensor does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from edgewise.cli import console, figures
from edgewise.cli.broker import (
    URL_HELP,
    protocol_option,
    root_option,
    tls_files,
    tls_options,
)
from edgewise.cli.generation import (
    generation_options,
    generation_settings,
    refuse_logprobs_without_json,
)
from edgewise.cli.parameters import (
    PATH,
    examples,
    json_option,
    prompt_with_system,
)
from edgewise.cli.text_answers import (
    TASKS,
    TOP,
    Text,
    answer_to,
    file_option,
    refuse_without_meaning,
    show_or_write,
    text_pair_option,
    top_option,
    write_lines,
)
from edgewise.cli.text_lines import lines_to_judge

if TYPE_CHECKING:
    from edgewise.cli.answer import Prompt
    from edgewise.cli.text_lines import Line
    from edgewise.device import AnswerStream, Final, Usage
    from edgewise.runtime import Task


@click.command(
    short_help="Ask an agent over MQTT.",
    epilog=examples(
        "edgewise request --broker mqtt://192.168.1.10 --device kitchen "
        '"Is 31 degrees too hot for tomatoes?"',
        "cat log.txt | edgewise request --broker mqtt://192.168.1.10 --device kitchen "
        '--system "Sum up what you read in one sentence." -',
        "edgewise request --broker mqtt://192.168.1.10 --device door --image door.jpg "
        '"Who is at the door?"',
        'edgewise request --broker mqtts://broker.lan --device kitchen "Hello" --tls-ca ca.pem '
        "--max-tokens 50 --json",
        "edgewise request --broker mqtt://192.168.1.10 --device hall --task classify --top 1 "
        '"The light is broken again."',
    ),
)
@click.option(
    "--broker",
    metavar="URL",
    required=True,
    help=URL_HELP.format(variable="EDGEWISE_REQUEST_BROKER"),
)
@click.option("--device", metavar="NAME", required=True, help="The agent's device.")
@click.argument("text", required=False)
@click.option(
    "--task",
    metavar="TASK",
    help=f"What to do with the text: {', '.join(TASKS)} (the default: generate), or a name in the "
    "agent's info, such as translation-en-to-de.",
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
    help="An image that the text is about, up to 1 MiB; may be given several times.",
)
@generation_options
@click.option(
    "--deadline",
    type=float,
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the answer is wanted.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, 9),
    default=5,
    show_default=True,
    metavar="0-9",
    help="Higher is served first.",
)
@click.option(
    "--client",
    metavar="NAME",
    help="This client's name, a level of its topics; by default the URL's user, or cli.",
)
@root_option
@protocol_option
@tls_options
@json_option
def request(
    *,
    broker: str,
    device: str,
    text: str | None,
    task: str | None,
    text_pair: str | None,
    top: int | None,
    file: Path | None,
    images: tuple[Path, ...],
    system: str | None,
    deadline: float,
    priority: int,
    client: str | None,
    root: str,
    protocol: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    as_json: bool,
    **generation: Any,
) -> None:
    """Send TEXT to the agent of a device and print its answer as it comes.

    Without TEXT, or with -, standard input is read: as one prompt, or as a text a line where texts
    are judged. Ctrl-C cancels the request on the device too.
    """
    from edgewise.device import BrokerAddress, Requester
    from edgewise.device.topics import DeviceTopics
    from edgewise.device.verbs import verb_of
    from edgewise.runtime import GenerationOptions

    wanted = cast("Task", task if task in TASKS else "generate")
    words = None if task in TASKS else task  # whose words the agent's bundle knows
    only_judging = {"text_pair": text_pair, "top": top, "file": file}
    only_generating = {**generation, "system": system, "images": images}
    refuse_without_meaning(wanted, only_judging if wanted == "generate" else only_generating)
    settings = generation_settings(generation)
    options = GenerationOptions(**settings) if settings else None
    refuse_logprobs_without_json(options, as_json=as_json)
    DeviceTopics(root, device)  # refuses names that can be none
    address = BrokerAddress.parse(broker)
    files = tls_files(tls_ca, tls_cert, tls_key)
    prompt: Prompt = ""
    lines: Iterator[Line] | None = None
    if wanted == "generate":
        if words is not None and system is not None:
            raise click.UsageError("--system: without meaning for a task that words stand for.")
        prompt = _prompt(text, system, raw=bool(generation["raw"]))
    else:
        lines = lines_to_judge(text, text_pair, file)
    if not 0 < deadline < float("inf"):
        raise click.UsageError(f"--deadline is {deadline}; accepted: a number of seconds above 0.")
    requester = Requester(
        address, client=client or address.user or "cli", root=root, protocol=protocol, tls=files
    )
    with contextlib.ExitStack() as stack:
        with console.status(f"Connecting to {address}"):
            stack.enter_context(requester)
        if wanted == "generate":
            answer = requester.stream(
                device,
                prompt,
                options,
                priority=priority,
                deadline_seconds=deadline,
                images=images,
                task=words,
            )
            final = follow(answer, quiet=as_json)
            if as_json:
                console.write_json(final_json(final))
            else:
                console.say(usage_line(final.usage))
            return

        def ask(texts: Sequence[Text]) -> Sequence[Mapping[str, Any]]:
            return requester.judge(
                device,
                verb_of(wanted),
                texts,
                top=top or TOP,
                priority=priority,
                deadline_seconds=deadline,
            ).results

        if lines is not None:
            write_lines(ask, wanted, lines)
        else:
            show_or_write(answer_to(ask, wanted, text or "", text_pair), as_json=as_json)


def _prompt(text: str | None, system: str | None, *, raw: bool) -> Prompt:
    prompt = console.read_prompt(text)
    if prompt is None:
        raise click.UsageError("Missing argument 'TEXT'.")
    return prompt_with_system(prompt, system, raw=raw)


def follow(answer: AnswerStream, *, quiet: bool = False) -> Final:
    """Read an answer to its end, writing its text to stdout as it comes unless ``quiet``.

    Raises:
        DeviceError: There is no answer.
    """
    texts: Generator[str, None, None] = iter(answer)
    begun = False
    try:
        with contextlib.closing(texts):
            for text in texts:
                if not quiet:
                    begun = True
                    console.write(text)
    finally:
        if begun:
            console.write("\n")
    if answer.final is None:
        raise RuntimeError("the answer has ended without a final message")
    return answer.final


def final_json(final: Final) -> dict[str, Any]:
    """Return the end of an answer in the types of JSON; what nobody asked for is left out."""
    value = dataclasses.asdict(final)
    if not final.logprobs:
        del value["logprobs"]
    return value


def usage_line(usage: Usage) -> str:
    """Write what an answer took on one line, as far as the device says it."""
    parts = []
    if usage.prompt_tokens is not None:
        parts.append(figures.plural(usage.prompt_tokens, "prompt token"))
    if usage.generated_tokens is not None:
        parts.append(f"{usage.generated_tokens} generated")
    if usage.time_to_first_token_ms is not None:
        parts.append(f"first token after {figures.seconds(usage.time_to_first_token_ms / 1000)}")
    if usage.tokens_per_second is not None:
        parts.append(figures.rate(usage.tokens_per_second))
    if usage.peak_rss_bytes is not None:
        parts.append(f"peak memory {figures.mebibytes(usage.peak_rss_bytes)}")
    return f"[{' | '.join(parts) or 'the device gives no figures'}]"
