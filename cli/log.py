"""The log of commands that run until they are told to stop."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@contextlib.contextmanager
def log_to_stderr(*, debug: bool) -> Iterator[None]:
    """Write the log to stderr while the block lasts."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    levels = {"": logging.WARNING, "edgewise": logging.DEBUG if debug else logging.INFO}
    if not debug:
        # The embedded broker lets each client that speaks MQTT 5 fail with a traceback from here.
        levels["asyncio"] = logging.CRITICAL
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
