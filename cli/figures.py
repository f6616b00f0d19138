"""Numbers as people read them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: int | None) -> str:
    """Write bytes: "512 B", "88.4 MiB"; "unknown" for None."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def mebibytes(count: int | None) -> str:
    """Write bytes as MiB, whatever their size: "312 MiB"; "unknown" for None."""
    return "unknown" if count is None else f"{count / (1 << 20):.0f} MiB"


def seconds(duration: float) -> str:
    """Write a duration: "85 ms", "3.42 s", "127 s"."""
    if duration < 1:
        return f"{duration * 1000:.0f} ms"
    return f"{duration:.2f} s" if duration < 100 else f"{duration:.0f} s"


def parameters(count: int) -> str:
    """Write a count of parameters: "134,515,008 (134.5 M)"."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count:,} ({count / limit:.1f} {unit})"
    return str(count)


def rate(tokens_per_second: float) -> str:
    """Write a speed: "35.2 tokens/s"."""
    return f"{tokens_per_second:.1f} tokens/s"


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: "1 token", "2 tokens"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
