"""A decoder that sees: images among the tokens of a prompt.

Workflow: a prompt is split at its marks, `split_at_marks`, its texts become ids apart, and
`SplicingBackend.holding` gives ids for what stands between them. These lie behind the
vocabulary: to whoever works with ids (sessions, chunks of a prompt, shared beginnings) an image is
a run of tokens like any other, and only the step that feeds them asks for its vectors.

Rules: an image is computed when the first of its tokens is fed, once: the same image in a later
turn has the same ids and its vectors are still there, as long as it is among the last ones. Equal
ids are equal images, always.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.backends.protocol import VisionLanguageBackend

KEPT_IMAGES = 4  # whose vectors are kept when no prompt has them, until others take their place


class ImageCountError(EdgewiseError):
    """A prompt that has not as many marks as images."""


def split_at_marks(text: str, marker: str, images: int) -> list[str]:
    """Split a prompt at the marks that stand for images.

    Args:
        text: The whole prompt.
        marker: Text of a mark.
        images: How many were given.

    Returns:
        One text more than there are images; each may be empty.

    Raises:
        ImageCountError: There are more or fewer marks.
    """
    texts = text.split(marker)
    if len(texts) - 1 != images:
        raise ImageCountError(
            f"{marker} stands {len(texts) - 1} times in the prompt, and images were given: "
            f"{images}; write {marker} once where each image belongs"
        )
    return texts


@dataclass
class _Image:
    """One image that prompts may have, and its vectors once a step has needed them."""

    number: int
    pixels: NDArray[np.float32] | None
    vectors: NDArray[np.float32] | None = None
    holders: int = 0  # prompts that have it


class SplicingBackend:
    """Fulfils ``Backend`` over a ``VisionLanguageBackend``: ids behind the vocabulary are images.

    Images may be held and left from any thread, beside the one that runs steps.
    """

    def __init__(self, backend: VisionLanguageBackend, image_tokens: int) -> None:
        """Begin without images.

        Args:
            backend: The engine.
            image_tokens: Tokens of an image.
        """
        self._backend = backend
        self._tokens = image_tokens
        self._lock = threading.Lock()  # of what follows
        self._images: OrderedDict[bytes, _Image] = OrderedDict()  # by digest, the latest used last
        self._numbered: dict[int, _Image] = {}
        self._next_number = 0

    @property
    def slots(self) -> int:
        """See ``Backend``."""
        return self._backend.slots

    @property
    def capacity(self) -> int:
        """See ``Backend``."""
        return self._backend.capacity

    @property
    def vocabulary_size(self) -> int:
        """See ``Backend``."""
        return self._backend.vocabulary_size

    @property
    def rows_share_work(self) -> bool:
        """See ``Backend``."""
        return self._backend.rows_share_work

    @contextlib.contextmanager
    def holding(self, images: Sequence[NDArray[np.float32]]) -> Iterator[list[range]]:
        """Keep the images of a prompt while the block runs; nothing is computed.

        Args:
            images: [3, side, side] each, as ``images.pixels_of`` gives them.

        Yields:
            The ids of each; equal images have equal ids.
        """
        digests = [hashlib.sha256(pixels.tobytes()).digest() for pixels in images]
        with self._lock:
            held = [self._hold(*image) for image in zip(digests, images, strict=True)]
        try:
            firsts = (self.vocabulary_size + image.number * self._tokens for image in held)
            yield [range(first, first + self._tokens) for first in firsts]
        finally:
            with self._lock:
                for image in held:
                    image.holders -= 1
                self._forget()

    def _hold(self, digest: bytes, pixels: NDArray[np.float32]) -> _Image:
        image = self._images.get(digest)
        if image is None:
            image = self._images[digest] = _Image(self._next_number, pixels)
            self._numbered[image.number] = image
            self._next_number += 1
        self._images.move_to_end(digest)
        image.holders += 1
        return image

    def _forget(self) -> None:
        """Drop what nobody holds, the one that was given longest ago first."""
        unheld = [digest for digest, image in self._images.items() if not image.holders]
        for digest in unheld[: max(0, len(unheld) - KEPT_IMAGES)]:
            del self._numbered[self._images.pop(digest).number]

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        of_images = token_ids >= self.vocabulary_size
        if not of_images.any():
            return self._backend.step(first_slot, token_ids, past_lengths, counts)
        vectors = self._backend.embed(np.where(of_images, 0, token_ids))
        numbers, places = np.divmod(token_ids - self.vocabulary_size, self._tokens)
        for number in np.unique(numbers[of_images]):
            chosen = numbers == number
            vectors[chosen] = self._vectors(int(number))[places[chosen]]
        return self._backend.step_vectors(first_slot, vectors, past_lengths, counts)

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``."""
        return self._backend.slot_bytes(tokens)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``."""
        self._backend.copy_prefix(source, target, length)

    def read_cache(self, slot: int, length: int) -> NDArray[np.float32]:
        """See ``Backend``."""
        return self._backend.read_cache(slot, length)

    def write_cache(self, slot: int, cache: NDArray[np.float32]) -> None:
        """See ``Backend``."""
        self._backend.write_cache(slot, cache)

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        self._backend.release(slot)

    def close(self) -> None:
        """See ``Backend``."""
        self._images.clear()
        self._numbered.clear()
        self._backend.close()

    def _vectors(self, number: int) -> NDArray[np.float32]:
        image = self._numbered.get(number)
        if image is None:
            raise ValueError(f"image {number} is not known any more")
        if image.pixels is not None:
            image.vectors = self._backend.see(image.pixels[None])[0]
            image.pixels = None
        if image.vectors is None:
            raise ValueError(f"image {number} has neither pixels nor vectors")
        return image.vectors
