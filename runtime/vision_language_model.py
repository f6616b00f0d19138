"""A decoder that answers about images: what an application holds for questions with pictures.

Rules: a mark in the prompt, "<image>", says where an image belongs, and there are as many of them
as images. Where a question has none, the images come before it, as such models were trained. The
texts around images become ids apart. An image takes a fixed number of the context's tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.admission import Standing
from edgewise.runtime.backends.protocol import VisionLanguageBackend
from edgewise.runtime.bundle import Bundle, BundleError
from edgewise.runtime.chat import ChatTemplate, Messages
from edgewise.runtime.chunks import PREFILL_CHUNK
from edgewise.runtime.generation import Generation, Piece
from edgewise.runtime.images import ImageSource, open_image, pixels_of
from edgewise.runtime.language_model import LanguageModel
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.prefix_store import PrefixStore
from edgewise.runtime.sessions.answer import collect
from edgewise.runtime.sessions.vision_language import SplicingBackend, split_at_marks
from edgewise.runtime.slot_pool import ContextError
from edgewise.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Prompt:
    """A prompt whose texts are ids, and whose images have none yet."""

    texts: list[list[int]]  # one more than images
    continues: bool  # whether the answer continues a text


class VisionLanguageModel(LanguageModel):
    """A bundle of the family "vision_language" with its engine, ready to generate."""

    def __init__(
        self,
        bundle: Bundle,
        backend: VisionLanguageBackend,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        prefill_chunk: int = PREFILL_CHUNK,
        cache_bytes: int | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        """Put the loaded parts together; `edgewise.runtime.load` is what makes them.

        Raises:
            BundleError: The manifest does not say how images are read.
        """
        layout = bundle.manifest.image
        if layout is None:
            raise BundleError(f"the bundle of {bundle.manifest.model_id} reads no images")
        self._layout = layout
        self._splicing = SplicingBackend(backend, layout.tokens)
        super().__init__(
            bundle,
            self._splicing,
            tokenizer,
            template,
            prefill_chunk=prefill_chunk,
            cache_bytes=cache_bytes,
            store=store,
        )

    def stream(
        self,
        prompt: str | Messages,
        options: GenerationOptions | None = None,
        *,
        standing: Standing | None = None,
        images: Sequence[ImageSource] = (),
    ) -> Generator[Piece, None, None]:
        """Generate an answer piece by piece; closing the generator cancels.

        Args:
            prompt: As `LanguageModel.stream` takes it, with a mark ("<image>", as the manifest
                says) for each image, in their order. Without any, and unless ``options.raw``, the
                images come before the first user's text.
            options: How to generate; None: the defaults of `GenerationOptions`.
            standing: As `LanguageModel.stream` takes it.
            images: Files, contents of files, or images of Pillow's.

        Returns:
            A generator of pieces; the last one has ``finished`` and ``statistics``, whose prompt
            counts the tokens of images too. Images are read and checked at once and computed with
            the prompt, for which it may wait for another generation's end.

        Raises:
            ImageError: An image can not be read, or Pillow is not installed.
            ImageCountError: There are more or fewer marks than images.
            ContextError: Text and images are longer than the context; the numbers are given.
            EdgewiseError: As `LanguageModel.stream`.
        """
        options = self._checked(options)
        begin = perf_counter()
        self._require("generate")
        parts = self._parts(prompt, len(images), raw=options.raw)
        self._check_room(parts, len(images))
        pixels = [pixels_of(open_image(image), self._layout) for image in images]
        seconds = perf_counter() - begin
        return self._answer(parts, pixels, options, standing, seconds)

    def generate(
        self,
        prompt: str | Messages,
        options: GenerationOptions | None = None,
        *,
        standing: Standing | None = None,
        images: Sequence[ImageSource] = (),
    ) -> Generation:
        """Generate a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(prompt, options, standing=standing, images=images))

    def generate_several(
        self,
        prompt: str | Messages,
        options: GenerationOptions | None = None,
        *,
        count: int,
        standing: Standing | None = None,
        images: Sequence[ImageSource] = (),
    ) -> tuple[Generation, ...]:
        """Generate several answers; see `LanguageModel.generate_several` and `stream`."""
        return self._several(
            count,
            options,
            lambda one: self.stream(prompt, one, standing=standing, images=images),
        )

    def count_tokens(
        self, prompt: str | Messages, *, raw: bool = False, images: Sequence[ImageSource] = ()
    ) -> int:
        """Return how many tokens of the context a prompt takes, with its template and images.

        Images are counted, not opened.

        Raises:
            ChatError: As `stream`.
            ImageCountError: There are more or fewer marks than images.
        """
        parts = self._parts(prompt, len(images), raw=raw)
        return sum(map(len, parts.texts)) + len(images) * self._layout.tokens

    def _parts(self, prompt: str | Messages, images: int, *, raw: bool) -> _Prompt:
        marker = self._layout.marker
        if images and not raw and (messages := self._messages(prompt)) is not None:
            if not any(marker in message["content"] for message in messages):
                messages = _with_images_first(messages, f"{marker}\n" * images)
            prompt = messages
        text, is_chat = self._text(prompt, raw=raw)
        first, *later = split_at_marks(text, marker, images)
        texts = [
            self.tokenizer.encode(first, add_beginning=False if is_chat else None),
            *(self.tokenizer.encode(part, add_beginning=False) for part in later),
        ]
        return _Prompt(texts, continues=not is_chat and bool(text))

    def _check_room(self, parts: _Prompt, images: int) -> None:
        text = sum(map(len, parts.texts))
        total = text + images * self._layout.tokens
        if images and total > self.context_length:
            raise ContextError(
                f"the prompt has {text} tokens of text and {images} images of "
                f"{self._layout.tokens} tokens each, {total} together, the context holds "
                f"{self.context_length}: give fewer images or less text, or load the bundle with a"
                " longer context if it allows one"
            )
        self._session.slots.check_prompt(total)

    def _answer(
        self,
        parts: _Prompt,
        pixels: Sequence[NDArray[np.float32]],
        options: GenerationOptions,
        standing: Standing | None,
        seconds: float,
    ) -> Generator[Piece, None, None]:
        """Generate, and hold the images until the end."""
        with self._splicing.holding(pixels) as images:
            first, *later = parts.texts
            ids = list(first)
            for image, text in zip(images, later, strict=True):
                ids += [*image, *text]
            yield from self._session.stream(
                ids,
                options,
                continues=parts.continues,
                encoding_seconds=seconds,
                standing=standing,
            )


def _with_images_first(messages: Messages, marks: str) -> Messages:
    """Put marks before the first user's text."""
    result = [dict(message) for message in messages]
    for message in result:
        if message["role"] == "user":
            message["content"] = marks + message["content"]
            break
    return result
