"""An encoder at work: vectors of texts, words for a mask, labels of texts and of their parts.

Workflow: texts become ids between the tokens that the model was trained with, neighbours go through
the engine together, and what it gives is reduced to an answer. Rule: a text that does not fit is
refused, never cut: half a text has another meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.backends.protocol import EncoderBackend
from edgewise.runtime.labelled_spans import LabelledSpan, TokenSpan, labelled_spans
from edgewise.runtime.padded_rows import PaddingError, in_front

LOGITS, MEAN, HIDDEN_STATES = "logits", "mean", "hidden_states"  # the graph's names
BATCH = 8  # texts that go through the engine together, at most
BATCH_TOKENS = 512  # of these, padding included: the engine's memory grows with them

Text = str | tuple[str, str]
"""A text, or two whose relation matters."""


class EncoderError(EdgewiseError):
    """What was given to an encoder can not be answered."""


class TextEncoder(Protocol):
    """What a session asks of a tokenizer; ``runtime.tokenizer.Tokenizer`` fulfils it."""

    def encode(
        self, text: str, *, add_beginning: bool | None = None, special: bool = True
    ) -> list[int]:
        """Return a text's ids."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def spans(self, text: str) -> Sequence[TokenSpan]:
        """Return a text's tokens with their places in it."""


@dataclass(frozen=True)
class EncoderTokens:
    """Ids that stand around and in texts.

    Attributes:
        beginning: Before the first text.
        separator: Behind every text.
        mask: Stands for a word to be guessed; None if the model does not guess.
        separators_between: How many separators stand between two texts: 1 in BERT, 2 in RoBERTa.
    """

    beginning: int
    separator: int
    mask: int | None = None
    separators_between: int = 1


class Guess(NamedTuple):
    """A word for a mask."""

    text: str
    token_id: int
    probability: float


class EncoderSession:
    """Answers by an encoder."""

    def __init__(
        self,
        backend: EncoderBackend,
        tokenizer: TextEncoder,
        tokens: EncoderTokens,
        labels: Sequence[str] = (),
        *,
        sampled_vocabulary: int | None = None,
    ) -> None:
        """Join an engine and a tokenizer.

        Args:
            backend: The engine.
            tokenizer: Of the same model.
            tokens: Ids around texts.
            labels: What the logits of a classifier mean, in order.
            sampled_vocabulary: Ids from here on are padding rows and no guess; None: all may be.
        """
        self._backend = backend
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._labels = tuple(labels)
        self._vocabulary = sampled_vocabulary

    def embed(
        self,
        texts: Sequence[Text],
        *,
        pooling: Literal["mean", "first"] = "mean",
        normalize: bool = True,
    ) -> NDArray[np.float32]:
        """Return a vector for each text.

        Args:
            texts: Any number.
            pooling: Take the mean of its tokens' states, or the first token's, as the model was
                trained (MiniLM and E5 take the mean, BGE the first).
            normalize: Scale each vector to length 1, so that products are cosines.

        Returns:
            float32 [texts, features].

        Raises:
            EncoderError: A text is too long, or the model gives no states.
        """
        name = MEAN if pooling == "mean" else HIDDEN_STATES
        rows = [row[0] for row in self._results(texts, name)]
        vectors = np.stack(rows) if rows else np.zeros((0, 0), np.float32)
        if normalize:
            lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors

    def classify(self, texts: Sequence[Text]) -> list[Mapping[str, float]]:
        """Return each text's labels and their probabilities, the most probable first.

        Raises:
            EncoderError: A text is too long, or the model has no labels.
        """
        if not self._labels:
            raise EncoderError("this model has no labels; load one that was made to classify")
        answers: list[Mapping[str, float]] = []
        for row in self._results(texts, LOGITS):
            probabilities = _softmax(row[0])
            order = np.argsort(-probabilities, kind="stable")
            answers.append({self._labels[index]: float(probabilities[index]) for index in order})
        return answers

    def token_classify(self, texts: Sequence[str]) -> list[list[LabelledSpan]]:
        """Find the labelled parts of each text, such as names, in order.

        How labels of tokens become parts of a text is told in ``runtime/labelled_spans.py``.

        Raises:
            EncoderError: A text is too long, or the model has no labels.
        """
        if not self._labels:
            raise EncoderError("this model has no labels; load one that was made to label words")
        answers: list[list[LabelledSpan]] = []
        for text, logits in zip(texts, self._results(texts, LOGITS), strict=True):
            tokens = self._tokenizer.spans(text)
            rows = [_softmax(row) for row in logits[1 : 1 + len(tokens)]]  # behind the beginning
            best = [int(row.argmax()) for row in rows]
            answers.append(
                labelled_spans(
                    text,
                    tokens,
                    [self._labels[index] for index in best],
                    [float(row[index]) for row, index in zip(rows, best, strict=True)],
                    self._labels,
                )
            )
        return answers

    def fill_mask(self, text: Text, *, count: int = 5) -> list[list[Guess]]:
        """Guess the words that masks in a text stand for, each apart from the others.

        Args:
            text: With the model's mask, "[MASK]" in BERT, where a word is missing.
            count: Guesses a mask.

        Returns:
            For each mask in order, guesses from the most probable on.

        Raises:
            EncoderError: There is no mask, the text is too long, or the model does not guess.
        """
        ids, _ = self._framed(text)
        places = [place for place, token in enumerate(ids) if token == self._tokens.mask]
        if not places:
            raise EncoderError(f"there is no mask in {str(text)!r:.60}; write one for each word")
        logits = next(iter(self._results([text], LOGITS)))
        answers = []
        for place in places:
            probabilities = _softmax(logits[place][: self._vocabulary])
            best = np.argsort(-probabilities, kind="stable")[:count]
            answers.append(
                [
                    Guess(self._tokenizer.decode([int(token)]), int(token), float(probability))
                    for token, probability in zip(best, probabilities[best], strict=True)
                ]
            )
        return answers

    def encode(
        self,
        token_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Compute all results of rows of ids, padded on either side.

        Args:
            token_ids: [B, T], with the model's tokens around each text.
            attention_mask: [B, T], 1 for real tokens, 0 for padding; None: all are real.
            token_types: [B, T], which of two texts a token belongs to; None: all to the first.

        Returns:
            By the graph's names, float32 [B, T or 1, features] each; of padding, zeros. A row's
            numbers are those of the row alone.

        Raises:
            PaddingError: As ``padded_rows.in_front``.
            EncoderError: A row has more tokens than the model reads.
        """
        rows = in_front(token_ids, attention_mask)
        given = np.zeros_like(rows.token_ids)
        if token_types is not None:
            given = np.asarray(token_types, np.int64)
        if given.shape != rows.token_ids.shape:
            raise PaddingError(
                f"token_types has the shape {given.shape} and token_ids {rows.token_ids.shape};"
                " accepted: one type for each id"
            )
        longest = int(rows.counts.max(initial=0))
        if longest > self._backend.capacity:
            raise EncoderError(
                f"a row has {longest} tokens, this model reads at most {self._backend.capacity};"
                " give a shorter one"
            )
        types, width = rows.front(given), rows.token_ids.shape[1]
        columns = max(longest, min(width, 2))  # one would look like a result of the whole text
        parts: dict[str, list[NDArray[np.float32]]] = {}
        size = max(1, min(BATCH, BATCH_TOKENS // max(1, longest)))
        for at in range(0, len(rows.counts), size):
            some = slice(at, at + size)
            results = self._backend.encode(
                rows.token_ids[some, :columns], rows.counts[some], types[some, :columns]
            )
            for name, result in results.items():
                parts.setdefault(name, []).append(result)
        joined = {name: np.concatenate(results) for name, results in parts.items()}
        for name, result in joined.items():
            if result.shape[1] > 1:  # not of the text as a whole
                of_all = np.zeros((len(result), width, *result.shape[2:]), np.float32)
                of_all[:, :columns] = result
                joined[name] = rows.back(of_all)
        return joined

    def count_tokens(self, text: Text) -> int:
        """Return how many tokens a text takes, those around it included.

        Raises:
            EncoderError: It is too long.
        """
        return len(self._framed(text)[0])

    def close(self) -> None:
        """Give the engine's memory back."""
        self._backend.close()

    def _results(self, texts: Sequence[Text], name: str) -> list[NDArray[np.float32]]:
        """Run texts and return each one's rows of a result, without padding."""
        framed = [self._framed(text) for text in texts]
        rows: list[NDArray[np.float32]] = []
        for batch in _batches(framed):
            counts = np.asarray([len(ids) for ids, _ in batch], np.int32)
            token_ids = np.zeros((len(batch), counts.max()), np.int64)
            types = np.zeros_like(token_ids)
            for row, (ids, kinds) in enumerate(batch):
                token_ids[row, : len(ids)] = ids
                types[row, : len(ids)] = kinds
            results = self._backend.encode(token_ids, counts, types)
            if name not in results:
                raise EncoderError(
                    f"this model gives {', '.join(results)}, and what was asked for needs {name}; "
                    "load a model that was made for it"
                )
            rows += [result[:count] for result, count in zip(results[name], counts, strict=True)]
        return rows

    def _framed(self, text: Text) -> tuple[list[int], list[int]]:
        """Return ids with the model's tokens around them, and which text each belongs to."""
        tokens = self._tokens
        first, *rest = [text] if isinstance(text, str) else text
        ids = [tokens.beginning, *self._tokenizer.encode(first, add_beginning=False)]
        ids.append(tokens.separator)
        types = [0] * len(ids)
        for second in rest:
            more = [tokens.separator] * (tokens.separators_between - 1)
            more += [*self._tokenizer.encode(second, add_beginning=False), tokens.separator]
            ids += more
            types += [1] * len(more)
        if len(ids) > self._backend.capacity:
            raise EncoderError(
                f"{str(text)!r:.60} has {len(ids)} tokens, this model reads at most "
                f"{self._backend.capacity}; give a shorter text"
            )
        return ids, types


def _batches(
    framed: Sequence[tuple[list[int], list[int]]],
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Cut texts into neighbours that go through the engine together; a long one goes alone."""
    batch: list[tuple[list[int], list[int]]] = []
    for text in framed:
        longest = max(len(ids) for ids, _ in (*batch, text))
        if batch and (len(batch) == BATCH or longest * (len(batch) + 1) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities: NDArray[np.float64] = shifted / shifted.sum()
    return probabilities
