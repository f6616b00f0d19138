"""What ``edgewise demo`` does: bundle, broker, agent, request, answer.

Workflow: `prepare_bundle` exports, or finds the bundle of an earlier time; `demonstrate` starts the
embedded broker in this process and the agent in one of its own (so that its memory is what a device
would need), and asks over the network as a sensor does.

Rules: a bundle is used again only if every hash is right and it is what would be made anew. What
was started is stopped, however it ends.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING

from edgewise.cli import console
from edgewise.cli.exits import USER_MISTAKE
from edgewise.cli.progress import StageBars
from edgewise.common.errors import EdgewiseError

if TYPE_CHECKING:
    from edgewise.device import Requester, Usage

DEVICE = "demo"
SENSOR = "sensor"
START_SECONDS = 180.0  # in which the agent must have loaded the model
POLL_SECONDS = 0.1
STOP_SECONDS = 15.0
DEADLINE_SECONDS = 600.0
MAX_TOKENS = 200
STAGES = {"export": "export", "verify": "verify", "publish": "publish"}


class DemonstrationError(EdgewiseError):
    """The agent of the demonstration did not start; the message is its own."""


@dataclass(frozen=True)
class Demonstration:
    """What was shown.

    Attributes:
        bundle: The bundle's folder.
        reused: Whether it was there already.
        model_id: The model.
        profile: The board it is for.
        recipe: How its weights are stored.
        broker: The broker's URL.
        prompt: What was asked.
        text: The answer.
        finish_reason: "stop", or "length" where it was cut off.
        first_text_seconds: From sending the request to the first text, as the sensor saw it.
        usage: What the answer took, as the agent said.
    """

    bundle: str
    reused: bool
    model_id: str
    profile: str
    recipe: str
    broker: str
    prompt: str
    text: str
    finish_reason: str | None
    first_text_seconds: float
    usage: Usage


def demonstrate(
    checkpoint: str,
    *,
    profile: str,
    work: Path,
    prompt: str,
    write: Callable[[str], None],
) -> Demonstration:
    """Do the main job once.

    Args:
        checkpoint: As `edgewise.exporter.export` takes it.
        profile: The name of a profile.
        work: Folder in which bundles are kept.
        prompt: What the sensor asks.
        write: Takes the answer's text as it comes.

    Raises:
        EdgewiseError: Something given can not be used.
    """
    from edgewise.device import EmbeddedBroker, Requester
    from edgewise.runtime import GenerationOptions, open_bundle

    folder, reused = prepare_bundle(checkpoint, profile=profile, work=work)
    manifest = open_bundle(folder).manifest
    console.say(f"bundle: {folder} ({'reused, every hash is right' if reused else 'new'})")
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        console.say(f"broker: {broker.url} (embedded)")
        process = stack.enter_context(_agent(folder, broker.url, broker.protocol))
        requester = stack.enter_context(
            Requester(broker.url, client=SENSOR, protocol=broker.protocol)
        )
        with console.status("agent: loading the model"):
            process.await_online(requester)
        console.say(f"agent: {DEVICE} (process {process.number})")
        console.say(f"sensor: {prompt}")
        answer = requester.stream(
            DEVICE,
            prompt,
            GenerationOptions(max_tokens=MAX_TOKENS, temperature=0.0),
            deadline_seconds=DEADLINE_SECONDS,
        )
        begin = monotonic()
        first_text_seconds = 0.0
        for text in answer:
            first_text_seconds = first_text_seconds or monotonic() - begin
            write(text)
        final = answer.final
        if final is None:
            raise RuntimeError("the answer has ended without a final message")
    return Demonstration(
        bundle=str(folder),
        reused=reused,
        model_id=manifest.model_id,
        profile=manifest.profile,
        recipe=manifest.recipe,
        broker=broker.url,
        prompt=prompt,
        text=final.text,
        finish_reason=final.finish_reason,
        first_text_seconds=first_text_seconds,
        usage=final.usage,
    )


def prepare_bundle(checkpoint: str, *, profile: str, work: Path) -> tuple[Path, bool]:
    """Find or make the bundle of a checkpoint for a profile.

    Args:
        checkpoint: As `edgewise.exporter.export` takes it.
        profile: The name of a profile.
        work: Folder in which bundles are kept.

    Returns:
        The bundle's folder, and whether it was there already.

    Raises:
        EdgewiseError: It can not be exported.
    """
    from edgewise.firmware_profiles import load_profile

    board = load_profile(profile)
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{checkpoint}-{board.qualified_name}").strip("-.")
    folder = work.expanduser().absolute() / name
    with console.status("Reading every file of the bundle"):
        usable = is_usable(folder, checkpoint, profile)
    if usable:
        return folder, True
    from edgewise.exporter import export

    with StageBars(STAGES, other="fetch {}") as bars:
        export(checkpoint, profile=board, output=folder, runtime="onnx", progress=bars)
    return folder, False


def is_usable(folder: Path, checkpoint: str, profile: str) -> bool:
    """Tell whether a folder holds, whole, the bundle that would be exported into it."""
    from edgewise.exporter.quantize.recipes import Recipe
    from edgewise.firmware_profiles import load_profile
    from edgewise.runtime import BundleError, open_bundle

    if not folder.exists():
        return False
    try:
        manifest = open_bundle(folder, verify_hashes=True).manifest
    except BundleError as error:
        console.say(f"The bundle of an earlier time is made anew: {error}")
        return False
    board = load_profile(profile)
    recipe = str(Recipe.parse(str(board.recipe_for("onnx"))))
    made = (manifest.origin.name, manifest.profile, manifest.recipe)
    # A path is kept in the manifest as its last part.
    names = {checkpoint, Path(checkpoint).name}
    return made[0] in names and made[1:] == (board.qualified_name, recipe)


class _AgentProcess:
    """The agent in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    @property
    def number(self) -> int:
        return self._process.pid

    def await_online(self, requester: Requester) -> None:
        """Wait until the agent has announced itself.

        Raises:
            DemonstrationError: It ended, or has not started in time.
        """
        give_up = monotonic() + START_SECONDS
        while monotonic() < give_up:
            status = requester.devices(wait_seconds=0.0).get(DEVICE)
            if status is not None and status.state == "online":
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_SECONDS)
                raise self._failure()
        raise DemonstrationError(
            f"The agent has not started within {START_SECONDS:g} seconds; is this machine busy?"
        )

    def _failure(self) -> Exception:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        last = lines[-1] if lines else "without a message"
        if self._process.returncode == USER_MISTAKE:
            return DemonstrationError(last.removeprefix("Error: "))
        return RuntimeError(f"the agent ended with code {self._process.returncode}: {last}")


@contextlib.contextmanager
def _agent(bundle: Path, broker: str, protocol: str) -> Iterator[_AgentProcess]:
    """Run ``edgewise agent`` while the block lasts."""
    command = [sys.executable, "-m", "edgewise.cli", "agent", "--bundle", str(bundle)]
    command += ["--broker", broker, "--device", DEVICE, "--protocol", protocol]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            yield _AgentProcess(process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
