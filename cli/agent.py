"""``edgewise agent``: answer requests over MQTT until told to stop."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from edgewise.cli import console
from edgewise.cli.broker import (
    URL_HELP,
    protocol_option,
    root_option,
    tls_files,
    tls_options,
)
from edgewise.cli.extras import require_extra
from edgewise.cli.log import log_to_stderr
from edgewise.cli.parameters import (
    PATH,
    cache_budget_option,
    complete_folders,
    context_option,
    examples,
    threads_option,
)
from edgewise.cli.slots import default_slots

LOOPBACK = ("127.0.0.1", "localhost")


@click.command(
    short_help="Answer requests over MQTT.",
    epilog=examples(
        "edgewise agent --bundle smollm2 --broker mqtt://192.168.1.10 --device kitchen",
        "edgewise agent --bundle smollm2 --device kitchen --embedded-broker "
        "--broker mqtt://127.0.0.1:1883",
        "EDGEWISE_AGENT_BROKER=mqtts://pi:secret@broker.lan edgewise agent --bundle smollm2 "
        "--device kitchen --tls-ca ca.pem",
    ),
)
@click.option(
    "--bundle",
    type=PATH,
    metavar="DIR",
    required=True,
    shell_complete=complete_folders,
    help="The bundle that answers.",
)
@click.option("--broker", metavar="URL", help=URL_HELP.format(variable="EDGEWISE_AGENT_BROKER"))
@click.option(
    "--device",
    metavar="NAME",
    required=True,
    help="This device's name: a level of its topics, so without / + # $ and spaces.",
)
@root_option
@click.option(
    "--embedded-broker",
    is_flag=True,
    help="Start a broker in this process as well, for trials on one machine: it is reached from "
    "this machine only, and takes anyone. Its port is that of --broker, or a free one.",
)
@protocol_option
@tls_options
@threads_option
@context_option
@click.option(
    "--slots",
    type=int,
    metavar="N",
    help="Answers that are computed at once; of an encoder-decoder, the beams with which a request "
    "may search. Default: as the profile says that the bundle was exported for, and 1 beam.",
)
@cache_budget_option
@click.option(
    "--queue",
    "queue_size",
    type=int,
    metavar="N",
    default=8,
    help="Requests that may wait for a slot; more are told that the device is busy. Default: 8.",
)
@click.option(
    "--drain-seconds",
    type=float,
    metavar="S",
    default=5.0,
    help="How long running answers may still take when the agent is told to stop. Default: 5.",
)
@click.pass_context
def agent(
    context_: click.Context,
    *,
    bundle: Path,
    broker: str | None,
    device: str,
    root: str,
    embedded_broker: bool,
    protocol: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    threads: int | None,
    context: int | None,
    slots: int | None,
    cache_mib: int | None,
    queue_size: int,
    drain_seconds: float,
) -> None:
    """Answer requests that come over MQTT with the model of a bundle.

    Runs until Ctrl-C or SIGTERM; then it takes no more requests, lets the running answers end, says
    goodbye to the broker and exits with 0.
    """
    if broker is None and not embedded_broker:
        raise click.UsageError("Missing option '--broker'; give its URL, or --embedded-broker.")
    if embedded_broker:
        require_extra("demo", "The embedded broker")
    from edgewise.device import Agent, AgentSettings, BrokerAddress, EmbeddedBroker
    from edgewise.device.topics import DeviceTopics
    from edgewise.runtime import load
    from edgewise.runtime.bundle import open_bundle

    # What is mistyped is told before a model is loaded, which may take long.
    DeviceTopics(root, device)
    settings = AgentSettings(queue_size=queue_size, stop_grace_seconds=drain_seconds)
    files = tls_files(tls_ca, tls_cert, tls_key)
    url = broker or ""
    port = embedded_port(broker) if embedded_broker else BrokerAddress.parse(url).port
    with contextlib.ExitStack() as stack:
        stack.enter_context(log_to_stderr(debug=bool(context_.find_root().params.get("debug"))))
        if embedded_broker:
            own_broker = stack.enter_context(EmbeddedBroker(port=port))
            url, protocol = own_broker.url, own_broker.protocol
            console.say(f"The embedded broker listens on {url}.")
        with console.status("Loading the model"):
            model = stack.enter_context(
                load(
                    bundle,
                    threads=threads,
                    context_length=context,
                    slots=default_slots(open_bundle(bundle).manifest) if slots is None else slots,
                    cache_bytes=None if cache_mib is None else cache_mib << 20,
                    within_plan=True,
                )
            )
        running = Agent(
            model,
            broker=url,
            device=device,
            root=root,
            protocol=protocol,
            tls=files,
            settings=settings,
        )
        manifest, at_once = model.manifest, model.answers_at_once
        tasks = ", ".join(manifest.tasks)
        how_many = f", {at_once} requests at once" if at_once > 1 else ""
        console.say(
            f"{device} answers with {manifest.model_id} ({tasks}){how_many}; Ctrl-C ends it."
        )
        running.run()
    console.say(f"{device} has stopped.")


def embedded_port(broker: str | None) -> int:
    """Return the port that an embedded broker is to listen on; 0: a free one.

    Raises:
        click.UsageError: The URL is not one of this machine.
        DeviceError: It is no broker's URL.
    """
    from edgewise.device import BrokerAddress

    if broker is None:
        return 0
    address = BrokerAddress.parse(broker)
    if address.host not in LOOPBACK or address.tls or address.user is not None:
        raise click.UsageError(
            f"--embedded-broker listens on 127.0.0.1 without TLS or login, not on {address}; leave "
            "--broker out, or give mqtt://127.0.0.1:PORT."
        )
    return address.port
