"""How a command ends: exit codes, and one sentence instead of a traceback.

=====  ==========================================================================
code   meaning
=====  ==========================================================================
0      done
1      a fault of ours; the traceback is shown with ``--debug`` or EDGEWISE_DEBUG=1
2      a mistake in what was given, or something the user can mend (no space left)
130    interrupted by Ctrl-C (128 + SIGINT), as shells have it
141    whoever read the output has gone (128 + SIGPIPE), as of ``... | head -1``
143    terminated (128 + SIGTERM), after temporary files were removed
=====  ==========================================================================

Rules: this is the only place where an exception becomes an exit code. An error of ours says so, in
order that nobody looks for a mistake of his own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

import click

from edgewise.cli import interrupts
from edgewise.cli.console import say
from edgewise.common.errors import EdgewiseError

DONE = 0
OUR_FAULT = 1
USER_MISTAKE = 2
INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + signal.SIGPIPE

ENVIRONMENT_PREFIX = "EDGEWISE"  # EDGEWISE_RUN_THREADS is the default of `run --threads`
# What the operating system refuses for reasons that the user can mend and we can not.
MENDABLE = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
NO_MEMORY = (
    "there is not enough memory for this; take a smaller model, a recipe of fewer bits or a "
    "shorter --context."
)
OURS = (
    "this is a fault of ours, not of yours; `edgewise --debug ...` (or EDGEWISE_DEBUG=1) shows "
    "the traceback to report."
)


def run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Run a command and tell how it ended.

    Args:
        command: The root command; its parameter ``debug`` says whether tracebacks are wanted.
        name: What usage messages call it.
        arguments: As on the command line, without the program's name.

    Returns:
        The exit code of the table above; messages have been written to stderr.

    Raises:
        SystemExit: On SIGTERM, with its code, after everything has been cleaned up.
    """
    debug = False
    try:
        with interrupts.handled():
            with command.make_context(
                name, list(arguments), auto_envvar_prefix=ENVIRONMENT_PREFIX
            ) as context:
                debug = bool(context.params.get("debug"))
                command.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return _flushed(exit_.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        _forget(sys.stdout)
        return READER_GONE
    except Exception as error:  # noqa: BLE001 - the last place where one can be explained
        if interrupts.pending():  # libraries make errors of their own of it
            say("Interrupted.")
            return INTERRUPTED
        if debug:
            say(traceback.format_exc().rstrip())
        sentence, code = explain(error)
        say(f"Error: {sentence}")
        return code
    return DONE


def explain(error: Exception) -> tuple[str, int]:
    """Say in one sentence what an exception means to the user, and with which code to exit."""
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "edgewise"
        return f"{_ended(error.format_message())} See `{where} --help`.", USER_MISTAKE
    if isinstance(error, click.ClickException):
        return _ended(error.format_message()), USER_MISTAKE
    if isinstance(error, EdgewiseError):
        return str(error), USER_MISTAKE
    if isinstance(error, OSError) and error.errno in MENDABLE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; mend that and run it again.", USER_MISTAKE
    if isinstance(error, MemoryError):
        return NO_MEMORY, USER_MISTAKE
    return f"{type(error).__name__}: {error} - {OURS}", OUR_FAULT


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!", ")")) else f"{sentence}."


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget(sys.stdout)
        return READER_GONE
    return code


def _forget(stream: TextIO) -> None:
    """Send what is still buffered nowhere, so that the interpreter's own flush does not fail."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
