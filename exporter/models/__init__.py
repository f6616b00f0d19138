"""Model definitions: one file a ``model_type``, found by its name.

Adding a model is adding a file here that offers what its family does; no other file changes. A
decoder offers ``configuration``, ``tensors``, ``ignored`` and ``forward`` as ``llama.py`` does. An
encoder says so by ``FAMILY`` and offers the same over an ``EncoderBuilder``, as ``bert.py`` does;
an encoder-decoder offers ``encode`` and ``decode``, as ``t5.py`` does.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, Protocol, cast

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.graph.protocol import EncoderBuilder, GraphBuilder, Weight
from edgewise.exporter.models.decoder import DecoderConfiguration, TensorSpecification
from edgewise.exporter.models.encoder import EncoderConfiguration
from edgewise.exporter.models.encoder_decoder import EncoderDecoderConfiguration

_NOT_MODELS = frozenset(
    {"decoder", "decoder_head", "encoder", "encoder_decoder", "rotary", "windows"}
)

Family = Literal["decoder", "encoder", "encoder_decoder"]


class UnknownModelError(EdgewiseError):
    """No definition exists for a checkpoint's ``model_type``."""


class ModelDefinition(Protocol):
    """What the file of a decoder offers."""

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


class EncoderDefinition(Protocol):
    """What the file of an encoder offers."""

    def configuration(self, config: Mapping[str, Any]) -> EncoderConfiguration:
        """Read the checkpoint's configuration."""
        ...

    def tensors(self, configuration: EncoderConfiguration) -> dict[str, TensorSpecification]:
        """List the tensors that the checkpoint must hold."""
        ...

    def ignored(self, name: str) -> bool:
        """Tell whether an unlisted tensor is harmless."""
        ...

    def forward(
        self,
        builder: EncoderBuilder[Any],
        configuration: EncoderConfiguration,
        weight: Callable[[str], Weight],
    ) -> None:
        """Describe one pass."""
        ...


class EncoderDecoderDefinition(Protocol):
    """What the file of an encoder-decoder offers."""

    def configuration(self, config: Mapping[str, Any]) -> EncoderDecoderConfiguration:
        """Read the checkpoint's configuration."""
        ...

    def tensors(self, configuration: EncoderDecoderConfiguration) -> dict[str, TensorSpecification]:
        """List the tensors that the checkpoint must hold."""
        ...

    def ignored(self, name: str) -> bool:
        """Tell whether an unlisted tensor is harmless."""
        ...

    def encode(
        self,
        builder: EncoderBuilder[Any],
        configuration: EncoderDecoderConfiguration,
        weight: Callable[[str], Weight],
    ) -> None:
        """Describe the encoder's pass, with the keys and values that the decoder attends to."""
        ...

    def decode(
        self,
        builder: GraphBuilder[Any],
        configuration: EncoderDecoderConfiguration,
        weight: Callable[[str], Weight],
    ) -> None:
        """Describe one pass of the decoder."""
        ...


def model_types(family: Family = "decoder") -> tuple[str, ...]:
    """Return every ``model_type`` of a family that has a definition, sorted."""
    names = {module.name for module in pkgutil.iter_modules(__path__)} - _NOT_MODELS
    return tuple(sorted(name for name in names if _family(name) == family))


def find_model(model_type: str) -> ModelDefinition:
    """Return the definition of a decoder.

    Raises:
        UnknownModelError: There is none; the message names the nearest and all known ones.
    """
    return cast(ModelDefinition, _find(model_type, "decoder"))


def find_encoder(model_type: str) -> EncoderDefinition:
    """Return the definition of an encoder.

    Raises:
        UnknownModelError: There is none; the message names the nearest and all known ones.
    """
    return cast(EncoderDefinition, _find(model_type, "encoder"))


def find_encoder_decoder(model_type: str) -> EncoderDecoderDefinition:
    """Return the definition of an encoder-decoder.

    Raises:
        UnknownModelError: There is none; the message names the nearest and all known ones.
    """
    return cast(EncoderDecoderDefinition, _find(model_type, "encoder_decoder"))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _family(model_type: str) -> Family:
    return cast(Family, getattr(_module(model_type), "FAMILY", "decoder"))


def _find(model_type: str, family: Family) -> ModuleType:
    known = model_types(family)
    name = model_type.replace("-", "_")  # as in "phi-msft"; a module's name has no hyphen
    if name not in known:
        nearest = difflib.get_close_matches(model_type, known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise UnknownModelError(
            f"no definition exists for model_type {model_type!r}; "
            f"known are {', '.join(known)}.{hint}"
        )
    return _module(name)
