"""What an agent needs of a model, written by its consumer, so that anything that answers will do.

``edgewise.runtime.load(bundle)`` gives one; tests script theirs.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from edgewise.common.distributions import installed_version
from edgewise.runtime.admission import Standing
from edgewise.runtime.generation import Piece
from edgewise.runtime.judging import Judge
from edgewise.runtime.manifest import Manifest
from edgewise.runtime.options import GenerationOptions

MAX_DESCRIBED = 200  # labels that are announced; who has more is asked for all of them
_DISTRIBUTIONS = ("edgewise", "onnxruntime", "paho-mqtt")


class TextGenerator(Protocol):
    """A model that answers a prompt in pieces.

    It is called from as many threads as its attribute ``answers_at_once`` says, from one if it has
    none; each has one generation open. An ``EdgewiseError`` from it is the
    requester's to mend and reaches the requester; any other exception is logged and reaches nobody.
    """

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        options: GenerationOptions,
        *,
        standing: Standing,
    ) -> Generator[Piece, None, None]:
        """Generate.

        Args:
            prompt: A text, or a conversation of {"role": ..., "content": ...}.
            options: How to generate.
            standing: Whose request it is, and how urgent.

        A model whose manifest says that it sees also takes ``images``, contents of files.

        Returns:
            The pieces of the answer; the last has ``finished`` set. Closing it cancels.
        """
        ...


AnyModel: TypeAlias = TextGenerator | Judge


def describe_model(model: AnyModel) -> dict[str, Any]:
    """Return what the model's manifest says about it, as far as it has one."""
    manifest = getattr(model, "manifest", None)
    names = (
        "model_id",
        "architecture",
        "family",
        "tasks",
        "parameters",
        "recipe",
        "profile",
        "context_length",
        "source_length",
        "labels",
    )
    found = {name: getattr(manifest, name, None) for name in names}
    if isinstance(manifest, Manifest):
        found["tasks"] = (*manifest.tasks, *manifest.prefixes)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if isinstance(value, str | int)
        or (isinstance(value, tuple) and 0 < len(value) <= MAX_DESCRIBED)
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of what runs here: Python's, ours, the runtime's, the MQTT client's."""
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        version = installed_version(name)
        if version is not None:  # else run from a work tree, or without that runtime
            versions[name] = version
    return versions
