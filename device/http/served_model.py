"""What a server needs of a model, written by its consumer, so that anything that answers will do.

``edgewise.runtime.load(bundle)`` gives one; tests script theirs. Which of the methods it has
follows from the tasks in its manifest: "generate" needs ``stream``, "embed" the other two.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol

from edgewise.device.http.token_texts import TokenWriter
from edgewise.runtime.admission import Standing
from edgewise.runtime.generation import Piece
from edgewise.runtime.manifest import Manifest
from edgewise.runtime.options import GenerationOptions


class ServedModel(Protocol):
    """A model that several threads may ask at once; it may have them wait for each other.

    An ``EdgewiseError`` from it is the client's to mend and reaches it; any other exception is
    logged and reaches nobody.
    """

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        ...

    @property
    def tokenizer(self) -> TokenWriter:
        """The bundle's tokenizer."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that a request may take."""
        ...

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        options: GenerationOptions,
        *,
        standing: Standing,
        **images: Any,
    ) -> Generator[Piece, None, None]:
        """Refuse at once what can be refused; generate nothing before the first ``next``.

        Args:
            prompt: A text, or a conversation.
            options: How to generate.
            standing: Whose request it is, and whether it was taken back.
            images: ``images``, contents of files, where the manifest says that the model sees.
        """
        ...

    def embed(self, texts: Sequence[str]) -> Any:
        """Return float32 [texts, features]."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens a text has."""
        ...
