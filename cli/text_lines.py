"""Texts to answer, one a line, from a file or from standard input.

Rules: lines are read as they are needed, so that a file may be of any length; each is UTF-8 and of
a limited length. A fault names its line.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from edgewise.cli import console
from edgewise.cli.console import PROMPT_MAX_BYTES, InputError

Line = tuple[int, str]
"""The number of a line, from 1 on, and its text."""


def lines_to_judge(
    text: str | None, text_pair: str | None, file: Path | None
) -> Iterator[Line] | None:
    """Find the lines that a command is to judge, from its arguments.

    Args:
        text: The argument TEXT.
        text_pair: The option --text-pair.
        file: The option --file.

    Returns:
        The lines of the file, or of standard input; None where ``text`` is what is judged.

    Raises:
        click.UsageError: The arguments contradict each other, or there is nothing to judge.
    """
    if text is not None and text != "-" and file is None:
        return None
    if text_pair is not None:
        raise click.UsageError("--text-pair needs a TEXT; lines are judged one by one.")
    if file is not None and text is not None:
        raise click.UsageError("There is a TEXT and a --file; give one of them.")
    if file is None and text is None and console.is_terminal(sys.stdin):
        raise click.UsageError("Missing argument 'TEXT'; or give a --file, or pipe texts in.")
    return lines_of(file)


def lines_of(file: Path | None) -> Iterator[Line]:
    """Give the lines of a file, or of standard input for None or ``-``.

    Raises:
        InputError: The file can not be read, or a line is too long or no UTF-8.
    """
    if file is None or str(file) == "-":
        yield from _lines(sys.stdin.buffer, "standard input")
        return
    try:
        with file.open("rb") as stream:
            yield from _lines(stream, str(file))
    except OSError as error:
        raise InputError(f"{file} can not be read: {error.strerror}.") from error


def _lines(stream: IO[bytes], name: str) -> Iterator[Line]:
    for number in itertools.count(1):
        content = stream.readline(PROMPT_MAX_BYTES + 1)
        if not content:
            return
        if len(content) > PROMPT_MAX_BYTES:
            raise InputError(f"Line {number} of {name} has more than {PROMPT_MAX_BYTES} bytes.")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"Line {number} of {name} is no UTF-8 text (byte {error.start}); convert it first."
            ) from error
        yield number, text.removesuffix("\n").removesuffix("\r")


def batches(lines: Iterator[Line], size: int) -> Iterator[list[Line]]:
    """Give up to ``size`` lines at once."""
    while batch := list(itertools.islice(lines, size)):
        yield batch
