"""``edgewise request``: ask an agent over MQTT, as a sensor does."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, figures
from edgewise.cli.broker import (
    URL_HELP,
    protocol_option,
    root_option,
    tls_files,
    tls_options,
)
from edgewise.cli.parameters import (
    examples,
    generation_options,
    generation_settings,
    json_option,
    prompt_with_system,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from edgewise.device import AnswerStream, Final, Usage


@click.command(
    short_help="Ask an agent over MQTT.",
    epilog=examples(
        "edgewise request --broker mqtt://192.168.1.10 --device kitchen "
        '"Is 31 degrees too hot for tomatoes?"',
        "cat log.txt | edgewise request --broker mqtt://192.168.1.10 --device kitchen "
        '--system "Sum up what you read in one sentence." -',
        'edgewise request --broker mqtts://broker.lan --device kitchen "Hello" --tls-ca ca.pem '
        "--max-tokens 50 --json",
    ),
)
@click.option(
    "--broker",
    metavar="URL",
    required=True,
    help=URL_HELP.format(variable="EDGEWISE_REQUEST_BROKER"),
)
@click.option("--device", metavar="NAME", required=True, help="The agent's device.")
@click.argument("prompt", required=False)
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
    prompt: str | None,
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
    """Send PROMPT to the agent of a device and print its answer as it comes.

    Without PROMPT, or with -, standard input is the prompt. Ctrl-C cancels the request on the
    device too.
    """
    from edgewise.device import BrokerAddress, Requester
    from edgewise.device.topics import DeviceTopics
    from edgewise.runtime import GenerationOptions

    settings = generation_settings(generation)
    options = GenerationOptions(**settings) if settings else None
    DeviceTopics(root, device)  # refuses names that can be none
    address = BrokerAddress.parse(broker)
    files = tls_files(tls_ca, tls_cert, tls_key)
    text = console.read_prompt(prompt)
    if text is None:
        raise click.UsageError("Missing argument 'PROMPT'.")
    if not 0 < deadline < float("inf"):
        raise click.UsageError(f"--deadline is {deadline}; accepted: a number of seconds above 0.")
    given = prompt_with_system(text, system, raw=bool(generation["raw"]))
    requester = Requester(
        address, client=client or address.user or "cli", root=root, protocol=protocol, tls=files
    )
    with contextlib.ExitStack() as stack:
        with console.status(f"Connecting to {address}"):
            stack.enter_context(requester)
        answer = requester.stream(
            device, given, options, priority=priority, deadline_seconds=deadline
        )
        final = follow(answer, quiet=as_json)
    if as_json:
        console.write_json(final_json(final))
    else:
        console.say(usage_line(final.usage))


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
    """Return the end of an answer in the types of JSON."""
    return dataclasses.asdict(final)


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
