"""A loaded language model: what an application holds.

Workflow: `load` opens and checks a bundle, picks the engine that the manifest names, and gives a
`LanguageModel`; its `stream` and `generate` take a text or messages; `close` (or ``with``) gives
the memory back.

Rules: everything that can be refused is refused when the method is called, before the first piece.
A model may be used from several threads: a second generation waits for the first one's end. One
thread that begins a second generation inside its first would wait for ever, so that is an error.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.backends.protocol import Backend
from edgewise.runtime.bundle import Bundle, Manifest, open_bundle
from edgewise.runtime.chat import ChatError, ChatTemplate, check_messages
from edgewise.runtime.generation import Generation, Piece
from edgewise.runtime.options import GenerationOptions, OptionsError
from edgewise.runtime.sessions.decoder import PREFILL_CHUNK, DecoderSession, collect
from edgewise.runtime.tokenizer import Tokenizer
from edgewise.runtime.versions import check_minimum_versions

THREADS_MAX = 1024

Messages = Sequence[Mapping[str, str]]


class ModelError(EdgewiseError):
    """A model that is closed, or that this thread is already generating with."""


class BackendFactory(Protocol):
    """Makes the engine of a bundle; the constructor of every backend is one."""

    def __call__(self, bundle: Bundle, *, threads: int, slots: int, capacity: int) -> Backend:
        """Load the engine with a cache of ``slots`` times ``capacity`` tokens."""


def load(
    bundle_path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    verify_hashes: bool = False,
    context_length: int | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
    backend: BackendFactory | None = None,
) -> LanguageModel:
    """Load a bundle.

    Args:
        bundle_path: The bundle's folder.
        threads: Threads that compute; None: as the profile says, but no more than the machine has
            physical cores.
        verify_hashes: Compare the SHA-256 of every file first.
        context_length: Tokens that prompt and answer may have together; None: all that the bundle
            allows. Less takes less memory.
        prefill_chunk: Tokens of the prompt that are computed at once.
        backend: Another engine than the manifest names.

    Raises:
        BundleError: The bundle is damaged, or something it needs is missing or too old.
        OptionsError: An argument is outside what is accepted.
        TokenizerError: The tokenizer does not give the ids the model was exported with.
        ChatError: The chat template does not render as where the bundle was exported.
        BackendError: The engine can not load the graph.
    """
    bundle = open_bundle(bundle_path, verify_hashes=verify_hashes)
    manifest = bundle.manifest
    capacity = _within("context_length", context_length, manifest.context_length)
    prefill_chunk = _within("prefill_chunk", prefill_chunk, 2**31 - 1)
    if threads is None:
        threads = _default_threads(manifest)
    else:
        _within("threads", threads, THREADS_MAX)
    check_minimum_versions(manifest.minimum_versions)
    tokenizer = Tokenizer.open(bundle)
    template = ChatTemplate.open(bundle)
    factory = backend_factory(manifest) if backend is None else backend
    engine = factory(bundle, threads=threads, slots=1, capacity=capacity)
    return LanguageModel(bundle, engine, tokenizer, template, prefill_chunk=prefill_chunk)


class LanguageModel:
    """A bundle with its engine, ready to generate."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        """Put the loaded parts together; `load` is what makes them."""
        self.bundle = bundle
        self.tokenizer = tokenizer
        self._backend = backend
        self._template = template
        self._session = DecoderSession(
            backend, tokenizer, bundle.manifest, prefill_chunk=prefill_chunk
        )
        self._turn = threading.Lock()  # held by the generation that runs
        self._owner: int | None = None  # the thread that last advanced it
        self._closed = False

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._backend.capacity

    def stream(
        self, prompt: str | Messages, options: GenerationOptions | None = None
    ) -> Generator[Piece, None, None]:
        """Generate an answer piece by piece; closing the generator cancels.

        Args:
            prompt: Messages, or a text. With a chat template in the bundle, a text is one user
                message unless ``options.raw``; without one it is continued as it is.
            options: How to generate; None: the defaults of `GenerationOptions`.

        Returns:
            A generator of pieces; the last one has ``finished`` and ``statistics``. It computes
            nothing before its first ``next``, where it may wait for another generation's end.

        Raises:
            ChatError: Messages are malformed, the template refuses them, or there is none.
            OptionsError: Several beams are asked for.
            ContextError: The prompt is empty or longer than the context; both numbers are given.
            ModelError: The model is closed, or (at the first ``next``) this thread has another
                generation open.
        """
        if options is None:
            options = GenerationOptions()
        if options.beams > 1:
            raise OptionsError(
                f"beams is {options.beams}; accepted by the model {self.manifest.model_id}, a"
                " decoder: 1. Models that translate or repair a text search with more"
            )
        begin = perf_counter()
        self._check_open()
        prompt_ids, continues = self._encode(prompt, raw=options.raw)
        self._session.slots.check_prompt(len(prompt_ids))
        return self._run(prompt_ids, options, continues, perf_counter() - begin)

    def generate(
        self, prompt: str | Messages, options: GenerationOptions | None = None
    ) -> Generation:
        """Generate a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(prompt, options))

    def count_tokens(self, prompt: str | Messages, *, raw: bool = False) -> int:
        """Return how many tokens of the context a prompt takes, with its template.

        Raises:
            ChatError: As `stream`.
        """
        return len(self._encode(prompt, raw=raw)[0])

    def close(self) -> None:
        """Give the memory back, after the running generation of another thread has ended.

        An open generation of this thread is cancelled. A second call does nothing.
        """
        if self._owner == threading.get_ident():  # it is suspended, for this thread is here
            self._close_backend()
            return
        with self._turn:
            self._close_backend()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _close_backend(self) -> None:
        if not self._closed:
            self._closed = True
            self._backend.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ModelError("the model is closed; load the bundle again")

    def _encode(self, prompt: str | Messages, *, raw: bool) -> tuple[list[int], bool]:
        """Return the prompt's ids, and whether the answer continues a text."""
        if isinstance(prompt, str) and (raw or self._template is None):
            return self.tokenizer.encode(prompt), bool(prompt)
        if raw:
            raise ChatError("a raw prompt must be a text, not messages")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = check_messages(messages)
        if self._template is None:
            raise ChatError(
                f"the bundle of {self.manifest.model_id} has no chat template, so it takes no"
                " messages: give a text, or export from a checkpoint that has a template"
            )
        text = self._template.render(messages)
        return self.tokenizer.encode(text, add_beginning=False), False

    def _run(
        self,
        prompt_ids: list[int],
        options: GenerationOptions,
        continues: bool,  # noqa: FBT001  # private
        encoding_seconds: float,
    ) -> Generator[Piece, None, None]:
        if self._owner == threading.get_ident():
            raise ModelError(
                "this thread has a generation open with this model; read it to its end or close"
                " it before you begin another"
            )
        self._turn.acquire()
        try:
            self._owner = threading.get_ident()
            self._check_open()
            pieces = self._session.stream(
                prompt_ids, options, continues=continues, encoding_seconds=encoding_seconds
            )
            with contextlib.closing(pieces):
                for piece in pieces:
                    if piece.finished is not None:
                        break
                    yield piece
                    self._owner = threading.get_ident()
                    self._check_open()
        finally:
            self._owner = None
            self._turn.release()
        yield piece


def backend_factory(manifest: Manifest) -> BackendFactory:
    """Return the engine that the manifest names; only that one is imported.

    Raises:
        ModelError: The bundle is for another program.
    """
    if manifest.runtime == "fake":
        from edgewise.runtime.backends.fake import FakeBackend  # noqa: PLC0415  # see docstring

        return FakeBackend.open
    if manifest.runtime == "litertlm":
        raise ModelError(
            f"the bundle of {manifest.model_id} is for LiteRT-LM: run its .litertlm file with"
            " `litert-lm run`, or export with --format tflite for this runtime"
        )
    if manifest.runtime == "tflite":
        from edgewise.runtime.backends.litert import LitertBackend  # noqa: PLC0415  # see docstring

        return LitertBackend
    from edgewise.runtime.backends.onnx import OnnxBackend  # noqa: PLC0415  # see docstring

    return OnnxBackend


def _default_threads(manifest: Manifest) -> int:
    from edgewise.firmware_profiles.detect import (  # noqa: PLC0415  # not needed with threads given
        physical_cores,
    )

    return max(1, min(manifest.threads, physical_cores()))


def _within(name: str, value: int | None, most: int) -> int:
    if value is None:
        return most
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise OptionsError(f"{name} is {value!r}; accepted: a whole number from 1 to {most}")
    return value
