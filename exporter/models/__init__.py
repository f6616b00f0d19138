"""Model definitions: one file a ``model_type``, found by its name.

Adding a model is adding a file here that offers ``configuration``, ``tensors``, ``ignored`` and
``forward`` as ``llama.py`` does; no other file changes.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.graph.protocol import GraphBuilder, Weight
from edgewise.exporter.models.decoder import DecoderConfiguration, TensorSpecification

_NOT_MODELS = frozenset({"decoder", "rotary"})


class UnknownModelError(EdgewiseError):
    """No definition exists for a checkpoint's ``model_type``."""


class ModelDefinition(Protocol):
    """What a model file offers."""

    def configuration(self, config: Mapping[str, Any]) -> DecoderConfiguration:
        """Read the checkpoint's configuration."""
        ...

    def tensors(self, configuration: DecoderConfiguration) -> dict[str, TensorSpecification]:
        """List the tensors that the checkpoint must hold."""
        ...

    def ignored(self, name: str) -> bool:
        """Tell whether an unlisted tensor is harmless."""
        ...

    def forward(
        self,
        builder: GraphBuilder[Any],
        configuration: DecoderConfiguration,
        weight: Callable[[str], Weight],
    ) -> None:
        """Describe one pass."""
        ...


def model_types() -> tuple[str, ...]:
    """Return every ``model_type`` that has a definition, sorted."""
    names = {module.name for module in pkgutil.iter_modules(__path__)}
    return tuple(sorted(names - _NOT_MODELS))


def find_model(model_type: str) -> ModelDefinition:
    """Return the definition of a model type.

    Raises:
        UnknownModelError: There is none; the message names the nearest and all known ones.
    """
    known = model_types()
    if model_type not in known:
        nearest = difflib.get_close_matches(model_type, known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise UnknownModelError(
            f"no definition exists for model_type {model_type!r}; "
            f"known are {', '.join(known)}.{hint}"
        )
    return cast(ModelDefinition, importlib.import_module(f"{__name__}.{model_type}"))
