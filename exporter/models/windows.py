"""Which layers of a decoder see a window of tokens, from a checkpoint's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.models.decoder import ConfigurationError

FULL, SLIDING = "full_attention", "sliding_attention"


def windows_of(
    config: Mapping[str, Any], layers: int, default: tuple[str, ...] = ()
) -> tuple[int | None, ...]:
    """Read how many tokens each layer's queries see; empty where no layer has a window.

    Args:
        config: Of the checkpoint, with ``sliding_window`` and perhaps ``layer_types``.
        layers: Transformer layers.
        default: The layers' types where the configuration does not list them.

    Raises:
        ConfigurationError: A type is unknown, or they are not one a layer, or no window is given.
    """
    kinds = tuple(config.get("layer_types") or default) or (FULL,) * layers
    if len(kinds) != layers or set(kinds) - {FULL, SLIDING}:
        raise ConfigurationError(
            f"layer_types of config.json lists {', '.join(map(str, kinds))} for {layers} layers; "
            f"each layer is {FULL!r} or {SLIDING!r}"
        )
    if SLIDING not in kinds:
        return ()
    window = config.get("sliding_window")
    if not isinstance(window, int) or window < 1:
        raise ConfigurationError(
            f"sliding_window is {window!r}, but config.json has layers of {SLIDING!r}; "
            "it is a number of tokens"
        )
    return tuple(window if kind == SLIDING else None for kind in kinds)
