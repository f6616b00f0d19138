"""Libraries in Rust that give up: their panics come to Python as what is no ``Exception``."""

from __future__ import annotations

_ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit, GeneratorExit)


def as_exception(error: BaseException) -> Exception:
    """Return an error as one that a program goes on after.

    Args:
        error: Anything that was raised.

    Returns:
        The error itself, or, of what is no ``Exception``, one that names it and has it as cause.
    """
    if isinstance(error, Exception):
        return error
    wrapped = RuntimeError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def contained(error: BaseException) -> Exception:
    """Do as `as_exception` with what a part of the program has raised; for use in ``except``.

    Raises:
        BaseException: The error, where it means that the program, or this generator, shall end.
    """
    if isinstance(error, _ENDS_THE_PROGRAM):
        raise error
    return as_exception(error)
