"""What the runtime asks of an engine, written by its consumers (sessions).

Workflow of a decoder: a session takes a slot, calls `step` for each chunk of its prompt and then
once a token, and says each time how much of the slot is valid. The backend owns the cache memory
and nothing else: it remembers no lengths, so bookkeeping errors can not hide in it.

An encoder-decoder is a decoder that reads a source into its slots before the first step. A
vision-language model is a decoder that takes vectors as well as ids. An encoder keeps nothing
between calls.

Rules: `step` blocks until the logits are there. It may be called from any thread, by one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.engine_error import EngineError

Cache = NDArray[Any]
"""[layers x 2, KV heads, tokens, head size], of each layer the keys, then the values, in the type
that the bundle's manifest gives its cache."""


class BackendError(EngineError):
    """An engine that can not be loaded, or that fails on this machine with this bundle."""


class SlotBackend(Protocol):
    """A loaded decoder, alone or behind an encoder, with its cache."""

    @property
    def slots(self) -> int:
        """Sequences that the cache holds at once."""

    @property
    def capacity(self) -> int:
        """Tokens that one slot can hold."""

    @property
    def vocabulary_size(self) -> int:
        """Length of one row of logits."""

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """Append tokens to slots and return what may follow them.

        Row ``b`` is slot ``first_slot + b``. Its positions before ``past_lengths[b]`` are kept, the
        new tokens are written from there on, whatever stood there before (so a slot is trimmed or
        emptied by giving a smaller past length).

        Args:
            first_slot: The slot of row 0; rows 0..B-1 are neighbouring slots.
            token_ids: [B, T], token ids; the caller may reuse the array after the call.
            past_lengths: [B], tokens of each slot that are valid before this call.
            counts: [B], how many of the T tokens of each row are real, 1..T; the rest is padding
                behind them and is never attended to. None: all T.

        Returns:
            [B, vocabulary_size], the logits after each row's last real token. The array may be the
            backend's own buffer: it is valid until the next call, and the caller may write to it.
        """

    @property
    def rows_share_work(self) -> bool:
        """Whether two rows in one step cost clearly less than two steps of one row."""

    def slot_bytes(self, tokens: int) -> int:
        """Return the memory of a slot to which this many tokens have been written, bytes."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the keys and values of a slot's first tokens into another slot.

        Args:
            source: The slot that has them.
            target: The slot that gets them; what it held is lost.
            length: Tokens.
        """

    def release(self, slot: int) -> None:
        """Give a slot's memory back to the system as far as it can; its content is lost."""

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""


class Backend(SlotBackend, Protocol):
    """A loaded decoder that needs nothing but its tokens: its cache may come from elsewhere."""

    def read_cache(self, slot: int, length: int) -> Cache:
        """Return a copy of the keys and values of a slot's first tokens."""

    def write_cache(self, slot: int, cache: Cache) -> None:
        """Take what `read_cache` gave as a slot's first tokens; what it held is lost."""


@runtime_checkable
class VerifyingBackend(Backend, Protocol):
    """A loaded decoder that can tell what may follow each of several new tokens."""

    @property
    def verifies(self) -> bool:
        """Whether this bundle's graph does; those of earlier versions do not."""

    def verify(
        self, slot: int, token_ids: NDArray[np.int64], past_length: int
    ) -> NDArray[np.float32]:
        """Append tokens to one slot and return what may follow each of them.

        Args:
            slot: The slot.
            token_ids: [T], token ids.
            past_length: Tokens of the slot that are valid before this call.

        Returns:
            [T, vocabulary_size], as `step` returns it.
        """


class EncoderDecoderBackend(SlotBackend, Protocol):
    """A loaded encoder-decoder: its decoder's cache, and what its decoder attends to."""

    @property
    def source_capacity(self) -> int:
        """Tokens that a source may have."""

    def read_source(
        self, first_slot: int, token_ids: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> None:
        """Encode sources, once, for all steps of neighbouring slots until they are given others.

        Args:
            first_slot: The slot of row 0.
            token_ids: [B, S], token ids, padding behind the real ones.
            counts: [B], how many of each row's S are real, at least 1.
        """

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``; the target attends to what the source has read from then on."""


class VisionLanguageBackend(Backend, Protocol):
    """A loaded vision-language model: a decoder whose new tokens may be vectors of an image."""

    def see(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the vectors that stand for images in a prompt.

        Args:
            pixels: [B, 3, side, side], as ``images.pixels_of`` gives each.

        Returns:
            [B, tokens of an image, features].
        """

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of token ids: [B, T] gives [B, T, features]."""

    def step_vectors(
        self,
        first_slot: int,
        vectors: NDArray[np.float32],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """Do as `step`, with vectors [B, T, features] in place of token ids."""


class EncoderBackend(Protocol):
    """A loaded encoder."""

    @property
    def capacity(self) -> int:
        """Tokens that a sequence may have."""

    def encode(
        self,
        token_ids: NDArray[np.int64],
        counts: NDArray[np.int32],
        token_types: NDArray[np.int64] | None = None,
    ) -> Mapping[str, NDArray[np.float32]]:
        """Compute all results of some sequences.

        Args:
            token_ids: [B, T], token ids, padding behind the real ones.
            counts: [B], how many of each row's T are real, at least 1.
            token_types: [B, T], which of two texts a token belongs to; None: all to the first.

        Returns:
            By the graph's names, [B, T or 1, features] each; rows of padding mean nothing.

        Raises:
            BackendError: A sequence is longer than the capacity, or the engine failed.
        """

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""


def check_length(tokens: int, capacity: int) -> None:
    """Refuse what an encoder has no positions for.

    Raises:
        BackendError: There are more tokens than it reads.
    """
    if tokens > capacity:
        raise BackendError(
            f"{tokens} tokens were given, this model reads at most {capacity}; give a shorter text"
        )
