"""Keeps what LiteRT writes about itself off the standard error.

The library notes every environment, accelerator and plug-in that it looks for, on the descriptor
itself and without a switch. Rule: only its notes are dropped; errors, and what other threads write
meanwhile, pass.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# How a note begins, and the lines that continue one.
_NOTE, _CONTINUED = re.compile(rb"(?:INFO|WARNING): "), "└".encode()


def drop_notes() -> None:
    """Drop what is written to the standard error once Python is through: the library's notes."""
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Run a block without notes; anything else passes when the block has ended."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as collected:
        kept = os.dup(2)
        os.dup2(collected.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            collected.seek(0)
            is_note = False
            for line in collected:
                is_note = bool(_NOTE.match(line)) or (is_note and line.startswith(_CONTINUED))
                if not is_note:
                    os.write(2, line)
