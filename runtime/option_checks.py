"""Checks of single options: a value is accepted, or the error names it and what is accepted."""

from __future__ import annotations

from edgewise.common.errors import EdgewiseError


class OptionsError(EdgewiseError):
    """A generation option that is outside what is accepted."""


def check_whole(name: str, value: object, low: int, high: int, *, optional: bool = False) -> None:
    """Refuse what is no whole number from ``low`` to ``high``; None is one where it is optional.

    Raises:
        OptionsError: The value is refused.
    """
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OptionsError(f"{name} is {value!r}; accepted: a whole number from {low} to {high}")


def check_number(
    name: str,
    value: object,
    low: float,
    high: float,
    *,
    optional: bool = False,
    low_excluded: bool = False,
) -> None:
    """Refuse what is no number from ``low`` to ``high``; None is one where it is optional.

    Raises:
        OptionsError: The value is refused; NaN always is.
    """
    if value is None and optional:
        return
    if not is_number(value, low, high) or (low_excluded and value == low):
        start = f"above {low:g}" if low_excluded else f"from {low:g}"
        raise OptionsError(f"{name} is {value!r}; accepted: a number {start} up to {high:g}")


def is_number(value: object, low: float, high: float) -> bool:
    """Tell whether a value is a number from ``low`` to ``high``, which NaN is not."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and bool(low <= value <= high)
    )


def check_texts(name: str, texts: object, *, most: int, longest: int) -> None:
    """Refuse what is no list of up to ``most`` texts of 1 to ``longest`` characters.

    Raises:
        OptionsError: The list is refused.
    """
    if not isinstance(texts, tuple | list):
        raise OptionsError(f"{name} is {texts!r}; accepted: a list of texts, such as ['END']")
    if len(texts) > most:
        raise OptionsError(f"{name} has {len(texts)} texts; accepted: up to {most}")
    for text in texts:
        if not isinstance(text, str) or not 1 <= len(text) <= longest:
            raise OptionsError(
                f"{name} holds {text!r:.80}; accepted: texts of 1 to {longest} characters"
            )
