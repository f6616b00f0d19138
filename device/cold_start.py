"""One short request, and one of full length, in a process of its own: what a device's start costs.

Workflow: `measure_cold_start` starts ``python -m edgewise.device.cold_start``; that process loads
the bundle, writes a line when the first token of a short prompt is there (of an encoder, what it
gives for one), reads and decodes as many tokens as it was told, and writes a line with its memory.
The parent takes the time of the first line, so that the interpreter's own start counts.

Rules: nothing but these lines, each one JSON object, goes to the child's stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from edgewise.common.errors import EdgewiseError
from edgewise.common.process_memory import anonymous_rss_bytes, peak_rss_bytes

if TYPE_CHECKING:
    from edgewise.runtime.engine_timing import LoadedEngine

PROMPT = "Hello"  # one user message where the bundle has a chat template
USER_MISTAKE = 2  # exit code of the child for an EdgewiseError


class ColdStartError(EdgewiseError):
    """The bundle can not be used in a fresh process; the message is that process's."""


@dataclass(frozen=True)
class ColdStart:
    """What a fresh process took.

    Attributes:
        load_seconds: Imports of the runtime, opening the bundle, loading the engine.
        first_token_seconds: From the start of the process to the first token.
        peak_rss_bytes: The most memory it held, until it had answered the longer request.
        anonymous_rss_bytes: What of its memory no file backs, then; None where the system has no
            such figure.
    """

    load_seconds: float
    first_token_seconds: float
    peak_rss_bytes: int
    anonymous_rss_bytes: int | None


def measure_cold_start(
    bundle: Path, *, threads: int | None, prompt_tokens: int, new_tokens: int
) -> ColdStart:
    """Measure a fresh process.

    Args:
        bundle: The bundle's folder.
        threads: As for `edgewise.runtime.load`.
        prompt_tokens: Tokens of the longer request's prompt.
        new_tokens: Tokens decoded after it.

    Raises:
        ColdStartError: The bundle can not be loaded.
        RuntimeError: The process failed in another way, which is a fault of ours.
    """
    given = json.dumps([str(bundle.absolute()), threads, prompt_tokens, new_tokens])
    command = [sys.executable, "-m", "edgewise.device.cold_start", given]
    begin = perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            if process.stdout is None or process.stderr is None:
                raise RuntimeError("the process has no pipes")
            first_line = process.stdout.readline()
            first_token_seconds = perf_counter() - begin
            last_line = process.stdout.readline()
            message = process.stderr.read().strip()
            code = process.wait()
        finally:
            process.kill()
    if code == USER_MISTAKE:
        raise ColdStartError(message)
    if code != 0:
        raise RuntimeError(f"the measured process ended with code {code}: {message}")
    first: dict[str, Any] = json.loads(first_line)
    last: dict[str, Any] = json.loads(last_line)
    return ColdStart(
        load_seconds=first["load_seconds"],
        first_token_seconds=first_token_seconds,
        peak_rss_bytes=last["peak_rss_bytes"],
        anonymous_rss_bytes=last["anonymous_rss_bytes"],
    )


def main(arguments: Sequence[str]) -> int:
    """Be the measured process; ``arguments`` is one JSON array."""
    path, threads, prompt_tokens, new_tokens = json.loads(arguments[0])
    try:
        _measured(Path(path), threads, prompt_tokens, new_tokens)
    except EdgewiseError as error:
        sys.stderr.write(f"{error}\n")
        return USER_MISTAKE
    return 0


def _measured(path: Path, threads: int | None, prompt_tokens: int, new_tokens: int) -> None:
    begin = perf_counter()
    from edgewise.runtime.engine_timing import load_with_engine  # noqa: PLC0415 - is being measured

    loaded = load_with_engine(path, threads=threads)
    load_seconds = perf_counter() - begin
    with loaded.model:
        _answer_briefly(loaded)
        _tell({"load_seconds": load_seconds})
        _answer_at_length(loaded, prompt_tokens, new_tokens)
        _tell(
            {"peak_rss_bytes": peak_rss_bytes(), "anonymous_rss_bytes": anonymous_rss_bytes()},
        )


def _answer_briefly(loaded: LoadedEngine) -> None:
    from edgewise.runtime.engine_timing import encode_seconds  # noqa: PLC0415 - as above
    from edgewise.runtime.options import GenerationOptions  # noqa: PLC0415 - as above

    model: Any = loaded.model
    if model.manifest.family == "encoder":
        encode_seconds(loaded.engine, [model.tokenizer.encode(PROMPT)])
    elif "generate" in model.manifest.tasks:
        model.generate(PROMPT, GenerationOptions(max_tokens=1))
    else:
        model.score(PROMPT)


def _answer_at_length(loaded: LoadedEngine, prompt_tokens: int, new_tokens: int) -> None:
    from edgewise.runtime.engine_timing import (  # noqa: PLC0415 - as above
        encode_seconds,
        read_source_seconds,
    )
    from edgewise.runtime.step_timing import (  # noqa: PLC0415 - as above
        decode_seconds,
        prefill_seconds,
    )

    # Any ids do; these are in every vocabulary.
    prompt, new = [0] * prompt_tokens, [0] * new_tokens
    match loaded.model.manifest.family:
        case "encoder":
            encode_seconds(loaded.engine, [prompt])
        case "encoder_decoder":
            read_source_seconds(loaded.engine, prompt)
            decode_seconds(loaded.engine, new, past=0)
        case _:
            prefill_seconds(loaded.engine, prompt)
            decode_seconds(loaded.engine, new, past=prompt_tokens)


def _tell(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
