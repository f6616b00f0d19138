"""Names of tensors that were saved from a model without its head.

Such a checkpoint lacks the prefix that the whole model gives to its base, as GPT-2's own does. The
prefix is put before every name but the head's, so that the rest of the exporter knows one form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

PREFIXES = {"gpt2": "transformer."}
HEADS = ("lm_head.", "score.")


def with_base_prefix(tensors: Mapping[str, Value], model_type: str) -> dict[str, Value]:
    """Return the tensors under the names that the whole model has.

    Args:
        tensors: By the names of the file.
        model_type: Of config.json; types that are not in `PREFIXES` stay as they are.
    """
    prefix = PREFIXES.get(model_type, "")
    if any(name.startswith(prefix) for name in tensors):
        return dict(tensors)
    return {
        name if name.startswith(HEADS) else f"{prefix}{name}": tensor
        for name, tensor in tensors.items()
    }
