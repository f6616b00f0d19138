"""``edgewise serve``: an OpenAI-compatible HTTP endpoint until told to stop."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

from edgewise.cli import console
from edgewise.cli.extras import require_extra
from edgewise.cli.log import log_to_stderr
from edgewise.cli.parameters import (
    PATH,
    bundle_argument,
    cache_budget_option,
    context_option,
    examples,
    threads_option,
)
from edgewise.cli.slots import default_slots

IMAGES_MAX_BYTES = 16 << 20  # of a request that may hold images


@click.command(
    short_help="Answer requests over HTTP, as OpenAI's clients ask.",
    epilog=examples(
        "edgewise serve smollm2",
        "edgewise serve smollm2 --port 9000 --slots 4 --name assistant",
        "edgewise serve smollm2 --host 0.0.0.0 --key-file keys.txt",
        "EDGEWISE_SERVE_KEY_FILE=keys.txt edgewise serve minilm --host ::",
    ),
)
@bundle_argument
@click.option(
    "--host",
    metavar="HOST",
    default="127.0.0.1",
    help="The address to listen on; one that other machines reach needs --key-file. Default: "
    "127.0.0.1.",
)
@click.option(
    "--port", type=int, metavar="PORT", default=8080, help="0 is any free one. Default: 8080."
)
@click.option(
    "--key-file",
    type=PATH,
    metavar="FILE",
    help="Clients must show one of the keys in FILE, which stand one a line; only its owner may be "
    "able to read it.",
)
@click.option(
    "--name", metavar="NAME", help="What clients may call the model beside its id (see inspect)."
)
@click.option(
    "--slots",
    type=int,
    metavar="N",
    help="Answers that are computed at once. Default: as the profile says that the bundle was "
    "exported for.",
)
@click.option(
    "--queue",
    "queue_size",
    type=int,
    metavar="N",
    default=32,
    help="Answers that may wait for a slot; more are refused with 429. Default: 32.",
)
@click.option(
    "--max-tokens",
    type=int,
    metavar="N",
    default=4096,
    help="The most tokens of an answer, whatever the request says. Default: 4096.",
)
@click.option(
    "--drain-seconds",
    type=float,
    metavar="S",
    default=30.0,
    help="How long running answers may still take when the server is told to stop. Default: 30.",
)
@cache_budget_option
@threads_option
@context_option
@click.pass_context
def serve(
    context_: click.Context,
    *,
    bundle: Path,
    host: str,
    port: int,
    key_file: Path | None,
    name: str | None,
    cache_mib: int | None,
    threads: int | None,
    context: int | None,
    slots: int | None,
    queue_size: int,
    max_tokens: int,
    drain_seconds: float,
) -> None:
    """Answer requests over HTTP with the model in the folder BUNDLE.

    Serves /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models and /health. Runs until
    Ctrl-C or SIGTERM; then it refuses new requests, ends the running answers and exits with 0.
    """
    require_extra("serve", "The HTTP server")
    from edgewise.device.http.keys import Keys
    from edgewise.device.http.listening import listen
    from edgewise.device.http.server import HttpServer
    from edgewise.device.http.settings import ServerSettings
    from edgewise.runtime import load, open_bundle

    # What is mistyped is told before a model is loaded, which may take long.
    manifest = open_bundle(bundle).manifest
    settings = ServerSettings(
        slots=default_slots(manifest) if slots is None else slots,
        queue_size=queue_size,
        max_tokens=max_tokens,
        drain_seconds=drain_seconds,
    )
    keys = None if key_file is None else Keys.read(key_file)
    listen(host, port, has_keys=keys is not None).close()
    with contextlib.ExitStack() as stack:
        stack.enter_context(log_to_stderr(debug=bool(context_.find_root().params.get("debug"))))
        with console.status("Loading the model"):
            model = stack.enter_context(
                load(
                    bundle,
                    threads=threads,
                    context_length=context,
                    slots=settings.slots,
                    cache_bytes=None if cache_mib is None else cache_mib << 20,
                    within_plan=True,
                )
            )
        if manifest.image is not None:
            settings = replace(settings, max_body_bytes=IMAGES_MAX_BYTES)
        server = HttpServer(
            cast("Any", model), host=host, port=port, keys=keys, name=name, settings=settings
        )
        shown = f"{name or manifest.model_id} ({', '.join(manifest.tasks)})"
        server.run(
            on_start=lambda: console.say(f"{shown} is served on {server.url}/v1; Ctrl-C ends it.")
        )
    console.say("The server has stopped.")
