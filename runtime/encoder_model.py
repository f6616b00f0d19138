"""An encoder that answers: vectors, labels and words for a mask, of texts as they are.

Rules: the manifest's tasks decide what is answered. A text may be a pair of texts whose relation
matters; one that does not fit is refused with both numbers, never cut. Texts go through the engine
in batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewise.runtime.backends.protocol import EncoderBackend
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.labelled_spans import LabelledSpan
from edgewise.runtime.model import Model
from edgewise.runtime.options import OptionsError
from edgewise.runtime.padded_rows import in_front
from edgewise.runtime.sessions.encoder import (
    EncoderError,
    EncoderSession,
    EncoderTokens,
    Guess,
    Text,
)
from edgewise.runtime.tokenizer import Tokenizer

GUESSES_MAX = 1000  # words for one mask


class EncoderModel(Model):
    """A bundle of the family "encoder" with its engine."""

    def __init__(self, bundle: Bundle, backend: EncoderBackend, tokenizer: Tokenizer) -> None:
        """Put the loaded parts together; `edgewise.runtime.load` is what makes them."""
        super().__init__(bundle, backend, tokenizer)
        self._backend = backend
        self._session = EncoderSession(
            backend,
            tokenizer,
            _tokens_of(bundle),
            labels=bundle.manifest.labels,
            sampled_vocabulary=bundle.manifest.sampled_vocabulary,
        )

    @property
    def context_length(self) -> int:
        """Tokens that a text (or two together) may have, those around it included."""
        return self._backend.capacity

    def embed(self, texts: Sequence[Text], *, normalize: bool = True) -> NDArray[np.float32]:
        """Return a vector for each text, of its tokens' states as the model was trained.

        Args:
            texts: Any number; each is a text, or a pair.
            normalize: Scale each vector to length 1, so that products are cosines.

        Returns:
            float32 [texts, features].

        Raises:
            TaskError: The bundle was not made to embed.
            OptionsError: ``texts`` is no list of texts.
            EncoderError: A text is too long; both numbers are given.
            ModelError: The model is closed.
        """
        self._require("embed")
        checked = _checked(texts)
        with self._turn():
            pooling = self.manifest.pooling or "mean"
            return self._session.embed(checked, pooling=pooling, normalize=normalize)

    def classify(self, texts: Sequence[Text]) -> list[Mapping[str, float]]:
        """Return each text's labels and their probabilities, the most probable first.

        Raises:
            TaskError: The bundle was not made to classify.
            OptionsError: ``texts`` is no list of texts.
            EncoderError: A text is too long; both numbers are given.
            ModelError: The model is closed.
        """
        self._require("classify")
        checked = _checked(texts)
        with self._turn():
            return self._session.classify(checked)

    def token_classify(self, texts: Sequence[str]) -> list[list[LabelledSpan]]:
        """Find the labelled parts of each text, such as names, in order.

        Raises:
            TaskError: The bundle was not made to label words.
            OptionsError: ``texts`` is no list of texts, or holds a pair.
            EncoderError: A text is too long; both numbers are given.
            ModelError: The model is closed.
        """
        self._require("token-classify")
        single: list[str] = []
        for text in _checked(texts):
            if not isinstance(text, str):
                raise OptionsError(f"texts holds the pair {text!r:.60}; accepted: single texts")
            single.append(text)
        with self._turn():
            return self._session.token_classify(single)

    def fill_mask(self, text: Text, *, count: int = 5) -> list[list[Guess]]:
        """Guess the words that masks in a text stand for, each apart from the others.

        Args:
            text: With the model's mask, as ``mask_text`` gives it, where a word is missing.
            count: Guesses a mask.

        Returns:
            For each mask in order, guesses from the most probable on.

        Raises:
            TaskError: The bundle was not made to fill masks.
            OptionsError: ``text`` is none, or ``count`` is outside what is accepted.
            EncoderError: There is no mask, or the text is too long; both numbers are given.
            ModelError: The model is closed.
        """
        self._require("fill-mask")
        (checked,) = _checked([text])
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= GUESSES_MAX:
            raise OptionsError(
                f"count is {count!r}; accepted: a whole number from 1 to {GUESSES_MAX}"
            )
        parts = (checked,) if isinstance(checked, str) else checked
        mask = self.mask_text
        if mask is not None and not any(mask in part for part in parts):
            raise EncoderError(
                f"there is no mask in {str(text)!r:.60}; write {mask} where a word is missing"
            )
        with self._turn():
            return self._session.fill_mask(checked, count=count)

    def encode(
        self,
        token_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Compute all that the model's graph gives of rows of ids, as another tokenizer made them.

        Args:
            token_ids: [B, T], with the model's tokens around each text.
            attention_mask: [B, T], 1 for real tokens and 0 for padding, which may stand before or
                behind them; None: all are real.
            token_types: [B, T], which of two texts a token belongs to; None: all to the first.

        Returns:
            "hidden_states", "mean" or "logits", as the model has them: float32 [B, T, features],
            at the places of their tokens and 0 at padding, or [B, 1, features] for results of a
            whole text. A row's numbers are those of the row alone.

        Raises:
            PaddingError: The arrays are no such rows, or an id is outside the vocabulary.
            EncoderError: A row is too long; both numbers are given.
            ModelError: The model is closed.
        """
        in_front(token_ids, attention_mask, vocabulary_size=self.manifest.vocabulary_size)
        with self._turn():
            return self._session.encode(token_ids, attention_mask, token_types)

    def count_tokens(self, text: Text) -> int:
        """Return how many tokens a text takes, those around it included.

        Raises:
            EncoderError: It is too long; both numbers are given.
        """
        return self._session.count_tokens(text)

    @property
    def mask_text(self) -> str | None:
        """What stands for a missing word in a text, such as "[MASK]"; None: the model has none."""
        mask = self.manifest.tokens.mask
        return None if mask is None else self.tokenizer.text_of(mask)


def _tokens_of(bundle: Bundle) -> EncoderTokens:
    tokens = bundle.manifest.tokens
    if tokens.beginning is None or tokens.separator is None:
        raise ValueError("the manifest of an encoder has both tokens; its checks say so")
    return EncoderTokens(
        beginning=tokens.beginning,
        separator=tokens.separator,
        mask=tokens.mask,
        separators_between=tokens.separators_between,
    )


def _checked(texts: Sequence[Text]) -> list[Text]:
    """Return a list of texts and pairs, after refusing everything else."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise OptionsError(
            f"texts is {texts!r:.60}; accepted: a list of texts, or of pairs of them"
        )
    checked: list[Text] = []
    for text in texts:
        if isinstance(text, str):
            checked.append(text)
            continue
        pair = tuple(text) if isinstance(text, list | tuple) else ()
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise OptionsError(f"texts holds {text!r:.60}; accepted: texts, or pairs of texts")
        checked.append((pair[0], pair[1]))
    return checked
