"""How many tokens of a prompt one step computes."""

from __future__ import annotations

PREFILL_CHUNK = 128
BUSY_CHUNK = 64  # while answers run
