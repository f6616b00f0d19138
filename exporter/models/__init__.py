"""Model definitions: one file a ``model_type``, found by its name.

Adding a model is adding a file here that offers what `Definition` says and the passes of its family
(`PASSES`); no other file changes. A file that does not name its ``FAMILY`` is a decoder's. Files
without a ``configuration`` are what several models share.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Protocol, cast

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.models.decoder import TensorSpecification
from edgewise.runtime.manifest import Family

PASSES: Mapping[Family, tuple[str, ...]] = MappingProxyType(
    {
        "decoder": ("forward",),
        "encoder": ("forward",),
        "encoder_decoder": ("encode", "decode"),
        "vision_language": ("see", "embed", "forward"),
    }
)
"""The functions that describe a family's graphs.

Each takes a builder, the configuration and a function that gives the weight of a name. ``forward``
of a decoder and ``decode`` take a ``GraphBuilder``, ``forward`` of an encoder and ``encode`` an
``EncoderBuilder``, ``see`` an ``ImageBuilder``, ``embed`` a ``LookupBuilder``.
"""


class UnknownModelError(EdgewiseError):
    """No definition exists for a checkpoint's ``model_type``."""


class Definition(Protocol):
    """What the file of a model offers, besides the passes of its family."""

    def configuration(self, config: Mapping[str, Any]) -> Any:
        """Read the checkpoint's configuration: the constants that its family declares."""
        ...

    def tensors(self, configuration: Any) -> dict[str, TensorSpecification]:
        """List the tensors that the checkpoint must hold."""
        ...

    def ignored(self, name: str) -> bool:
        """Tell whether an unlisted tensor is harmless."""
        ...


def model_types(family: Family | None = None) -> tuple[str, ...]:
    """Return every ``model_type`` that has a definition, of one family or of all, sorted."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(
        sorted(
            name
            for name in names
            if hasattr(_module(name), "configuration") and family in (None, _family(name))
        )
    )


def find_model(model_type: str) -> Definition:
    """Return the definition of a model, of whatever family.

    Raises:
        UnknownModelError: There is none; the message names the nearest and all known ones.
    """
    return cast(Definition, _module(_known(model_type)))


def family_of(model_type: str) -> Family:
    """Return the family of a model.

    Raises:
        UnknownModelError: There is no definition.
    """
    return _family(_known(model_type))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _family(name: str) -> Family:
    return cast(Family, getattr(_module(name), "FAMILY", "decoder"))


def _known(model_type: str) -> str:
    """Return the name of a model's file."""
    name = model_type.replace("-", "_")  # as in "phi-msft"; a module's name has no hyphen
    known = model_types()
    if name in known:
        return name
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UnknownModelError(
        f"no definition exists for model_type {model_type!r}; known are {', '.join(known)}.{hint} "
        "For other types, `edgewise export --via optimum` lets Hugging Face Optimum trace the graph"
    )
