"""The refusal of settings that are outside their limits, all of them in one error."""

from __future__ import annotations

from collections.abc import Mapping

from edgewise.device.errors import DeviceError


def refuse_outside(settings: object, fits: Mapping[str, bool], *, of: str) -> None:
    """Refuse settings of which one does not fit.

    Args:
        settings: A dataclass's instance, whose class says what each means.
        fits: By the name of each setting, whether it is within its limits.
        of: Whose settings they are, as in "the agent".

    Raises:
        DeviceError: Some are outside; all of them are named with their values.
    """
    wrong = [
        f"{name}={getattr(settings, name)!r}" for name, is_within in fits.items() if not is_within
    ]
    if wrong:
        raise DeviceError(
            f"These settings of {of} are outside their limits: {', '.join(wrong)}. "
            f"See {type(settings).__name__} for what each means."
        )
