"""Rotary frequencies from a checkpoint's configuration, scaled as it asks.

Kinds: ``default``, ``linear`` (position interpolation, arXiv 2306.15595), ``llama3`` (long
wavelengths stretched, short ones kept, the band between interpolated; as in Meta's llama3 release)
and ``longrope`` (also ``su``; a factor for each frequency, arXiv 2402.13753), of which the factors
up to the original context are taken. Any other kind is refused: a wrong frequency gives fluent
nonsense, not an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.graph.attention import Rotary

LONG_ROPE = ("longrope", "su")
ACCEPTED = ("default", "linear", "llama3", *LONG_ROPE)


class RotaryError(EdgewiseError):
    """The configuration asks for a rotary embedding that is not known here."""


def rotary_from_configuration(
    rotary_size: int, theta: float, scaling: Mapping[str, Any] | None
) -> Rotary:
    """Compute the inverse frequencies of a model.

    Args:
        rotary_size: Features of a head that rotate; even.
        theta: Base of the geometric series of wavelengths.
        scaling: The configuration's ``rope_scaling``, or None.

    Raises:
        RotaryError: The kind of scaling is unknown or a factor is missing.
    """
    factor = 1.0
    frequencies = [theta ** (-2 * pair / rotary_size) for pair in range(rotary_size // 2)]
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ACCEPTED:
        raise RotaryError(
            f"the checkpoint scales its rotary embedding by {kind!r}; accepted are "
            f"{', '.join(ACCEPTED)}. Use a checkpoint without long-context scaling."
        )
    try:
        if kind == "linear":
            frequencies = [frequency / float(scaling["factor"]) for frequency in frequencies]
        elif kind == "llama3":
            frequencies = [_stretch_as_llama3(frequency, scaling) for frequency in frequencies]
        elif kind in LONG_ROPE:
            frequencies = _divided_each(frequencies, scaling["short_factor"])
            factor = _long_rope_factor(scaling)
    except KeyError as missing:
        raise RotaryError(
            f"rope_scaling of type {kind!r} lacks {missing}; complete the checkpoint's config.json"
        ) from missing
    return Rotary(tuple(frequencies), factor)


def _divided_each(frequencies: list[float], factors: list[float]) -> list[float]:
    if len(factors) != len(frequencies):
        raise RotaryError(
            f"short_factor of rope_scaling has {len(factors)} numbers for {len(frequencies)} "
            "rotated pairs; complete the checkpoint's config.json"
        )
    return [value / float(factor) for value, factor in zip(frequencies, factors, strict=True)]


def _long_rope_factor(scaling: Mapping[str, Any]) -> float:
    """Return the factor on what rotates: by default it grows with the stretched context."""
    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)
    stretched = float(scaling["factor"])
    if stretched <= 1:
        return 1.0
    original = float(scaling["original_max_position_embeddings"])
    return math.sqrt(1 + math.log(stretched) / math.log(original))


def _stretch_as_llama3(frequency: float, scaling: Mapping[str, Any]) -> float:
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    original_context = float(scaling["original_max_position_embeddings"])
    wavelength = 2 * math.pi / frequency
    if wavelength < original_context / high:
        return frequency
    if wavelength > original_context / low:
        return frequency / factor
    smooth = (original_context / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency
