"""Input and output: stdout for answers and JSON, stderr for everything that accompanies them.

Rules: what a model or another machine wrote never steers the terminal: control characters are shown
as marks there, and written as they are into files and pipes. JSON on stdout stands alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from edgewise.cli import interrupts
from edgewise.common.errors import EdgewiseError

PROMPT_MAX_BYTES = 16 << 20  # bytes of standard input; far over every context
# C0 and C1 control characters but tab and newline, and DEL: shown as U+FFFD on a terminal.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in [*range(0x20), *range(0x7F, 0xA0)]
    if chr(code) not in "\t\n"
}


class InputError(EdgewiseError):
    """A prompt that is missing, empty, too long or no text."""


def prepare_streams() -> None:
    """Let no character stop the output, and a stream that was closed before we began neither."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person reads or writes this stream."""
    return stream is not None and not stream.closed and stream.isatty()


def _shown(text: str, stream: TextIO) -> str:
    return text.translate(_CONTROLS) if is_terminal(stream) else text


def write(text: str) -> None:
    """Write a part of an answer to stdout at once."""
    sys.stdout.write(_shown(text, sys.stdout))
    sys.stdout.flush()


def write_line(line: str = "") -> None:
    """Write one line to stdout."""
    sys.stdout.write(f"{_shown(line, sys.stdout)}\n")


def say(text: str) -> None:
    """Write a line for people to stderr; where nobody can read it, nothing happens."""
    with contextlib.suppress(OSError, ValueError):  # closed, or a pipe that nobody reads
        sys.stderr.write(f"{_shown(text, sys.stderr)}\n")
        sys.stderr.flush()


def write_json(value: Any, *, one_line: bool = False) -> None:
    """Write a value as JSON to stdout, indented unless it is one line of several."""
    # Where the encoding lacks characters, only escapes keep it JSON.
    ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
    indent = None if one_line else 2
    text = json.dumps(
        value, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=_plain
    )
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_table(rows: Sequence[Sequence[str]], *, indent: int = 0) -> None:
    """Write rows in aligned columns to stdout; the last column is not padded."""
    widths = [
        max(len(row[column]) for row in rows if column < len(row) - 1)
        for column in range(max(map(len, rows), default=1) - 1)
    ]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        write_line((" " * indent + "  ".join([*padded, row[-1]])).rstrip())


def write_section(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Write a heading and an indented table."""
    write_line(title)
    write_table(rows, indent=2)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Show what is being waited for, on a terminal, and take it away at the end."""
    live = is_terminal(sys.stderr)
    if live:
        sys.stderr.write(f"{text} ...")
        sys.stderr.flush()
    try:
        yield
    finally:
        if live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
    interrupts.check()


def read_prompt(given: str | None) -> str | None:
    """Settle the prompt: the argument, or standard input for ``-`` or where it is piped.

    Args:
        given: The argument, or None where there is none.

    Returns:
        The prompt, less one newline at its end if it was piped; None where a person sits at the
        terminal and gave none.

    Raises:
        InputError: The prompt is empty, too long or no UTF-8.
    """
    if given is None and is_terminal(sys.stdin):
        return None
    if given is not None and given != "-":
        if not given:
            raise InputError("The prompt is empty; give a text, or - to read standard input.")
        return given
    text = _read_standard_input()
    if not text:
        raise InputError(
            "No prompt was given and standard input is empty; give a text as the last argument."
        )
    return text


def read_text_file(path: Path, most_bytes: int) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark.

    Raises:
        InputError: It can not be read, is larger, or is no UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} can not be read: {error.strerror}.") from error
    if len(content) > most_bytes:
        raise InputError(f"{path} has more than {most_bytes} bytes, too many to follow.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}).") from error


def _read_standard_input() -> str:
    if sys.stdin is None or sys.stdin.closed:
        return ""
    stream = getattr(sys.stdin, "buffer", None)
    content = sys.stdin.read().encode() if stream is None else stream.read(PROMPT_MAX_BYTES + 1)
    if len(content) > PROMPT_MAX_BYTES:
        raise InputError(
            f"Standard input holds more than {PROMPT_MAX_BYTES} bytes; a prompt is shorter."
        )
    try:
        return str(content.decode("utf-8")).removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"Standard input is no UTF-8 text (byte {error.start}); convert it first."
        ) from error
