"""Brings the rotary embedding's settings of a config.json into one form.

transformers 4 writes ``rope_theta`` and ``rope_scaling``, 5 writes both as ``rope_parameters``. All
else in Edgewise reads only ``rope_theta`` (a float) and ``rope_scaling`` (None, or a dict with
``rope_type``). Rule: where both forms are given, ``rope_parameters`` decides, as in transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.checkpoint.errors import CheckpointError

DEFAULT_THETA = 10000.0  # transformers' own default; its config.json omits a default


def with_one_rotary_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a config.json's content with ``rope_theta`` and ``rope_scaling`` only.

    Settings by layer type, as ``{"full_attention": {...}, "sliding_attention": {...}}``, stay in
    ``rope_parameters`` too, and those of full attention become the common ones. The configuration
    of a model's text part, ``text_config``, is brought into that form as well.

    Args:
        config: The content of config.json.

    Raises:
        CheckpointError: A setting is not of the form that either version writes.
    """
    result = dict(config)
    parameters = _mapping(result.pop("rope_parameters", None), "rope_parameters")
    if parameters and all(isinstance(value, Mapping) for value in parameters.values()):
        result["rope_parameters"] = parameters
        parameters = _mapping(
            parameters.get("full_attention", next(iter(parameters.values()))), "rope_parameters"
        )
    if "partial_rotary_factor" in parameters:
        result["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    scaling = _mapping(result.get("rope_scaling"), "rope_scaling")
    theta = parameters.pop("rope_theta", None)
    # Some configurations of transformers 4 name theta inside rope_scaling.
    theta = scaling.pop("rope_theta", None) if theta is None else theta
    theta = result.get("rope_theta") if theta is None else theta
    result["rope_theta"] = _positive(DEFAULT_THETA if theta is None else theta, "rope_theta")
    result["rope_scaling"] = _one_scaling(parameters or scaling)
    if isinstance(text := result.get("text_config"), Mapping):
        result["text_config"] = with_one_rotary_form(text)
    return result


def _mapping(value: object, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json has {key} = {value!r}; null or an object is accepted.")
    return dict(value)


def _positive(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"config.json has {key} = {value!r}; a number above 0 is accepted.")
    return float(value)


def _one_scaling(scaling: dict[str, Any]) -> dict[str, Any] | None:
    """Name the kind ``rope_type``; the kind ``default`` scales nothing."""
    older = scaling.pop("type", None)
    kind = scaling.get("rope_type", older)
    if kind is None and not scaling:
        return None
    if not isinstance(kind, str):
        raise CheckpointError(
            f"config.json scales the rotary embedding without saying how: {scaling}; "
            'add "rope_type", as "linear" or "llama3".'
        )
    return None if kind == "default" else {**scaling, "rope_type": kind}
