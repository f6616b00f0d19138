"""Weights inside float32's range: the check before any format, and exact scaling."""

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.errors import QuantizeError

MAGNITUDE_LIMIT = 2.0**120
"""Weights from here on are refused: (code - zero point) * scale could leave float32's range."""


def check_weights(weights: NDArray[np.float32], name: str, first_row: int = 0) -> None:
    """Refuses weights that no scale can hold.

    Args:
        weights: float32, any shape.
        name: of the tensor, for the error.
        first_row: the row of the tensor at which these begin.

    Raises:
        QuantizeError: a value is not finite or its magnitude reaches `MAGNITUDE_LIMIT`.
    """
    if weights.size == 0:
        return
    # A comparison with NaN is false, so this one test finds all three.
    if weights.min() > -MAGNITUDE_LIMIT and weights.max() < MAGNITUDE_LIMIT:
        return
    row, *rest = np.argwhere(~(np.abs(weights) < MAGNITUDE_LIMIT))[0].tolist()
    place = ", ".join(str(index) for index in (first_row + row, *rest))
    raise QuantizeError(
        f"{name} holds {weights[(row, *rest)]} at [{place}]: weights must be finite and below "
        "2**120 in magnitude. The checkpoint is damaged; fetch or save it again."
    )


def power_of_two_times(
    values: NDArray[np.float32], exponent: NDArray[np.intc]
) -> NDArray[np.float32]:
    """Values * 2**exponent; only a result that is subnormal is rounded.

    Args:
        values: float32 of any shape.
        exponent: of the same shape, within -250 .. 250: applied by halves, each in float32's range.
    """
    half = exponent // 2
    result = values * np.ldexp(np.float32(1), half)
    result *= np.ldexp(np.float32(1), exponent - half)
    return result
