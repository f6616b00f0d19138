"""What every loaded model has, whatever it does: a bundle, a turn at the engine, and an end.

Workflow: a subclass checks what it was given with `_check_open` and `_require`, and computes inside
`_turn` or hands pieces out through `_stream`. `close` (or ``with``) gives the memory back.

Rules: everything that can be refused is refused when a method is called, before the first piece. A
model may be used from several threads: a second call waits for the first one's end. One thread that
begins a second call inside its first would wait for ever, so that is an error.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.bundle import Bundle, Manifest, Task
from edgewise.runtime.cancellation import Cancellation
from edgewise.runtime.tasks import check_task

if TYPE_CHECKING:  # load modules that nothing here needs
    from edgewise.runtime.generation import Piece
    from edgewise.runtime.tokenizer import Tokenizer


class ModelError(EdgewiseError):
    """A model that is closed, or that this thread is already generating with."""


class Engine(Protocol):
    """What a model needs of an engine here; each kind of model asks for more."""

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""


class Model:
    """A bundle with its engine and tokenizer. The base of every kind; `load` makes them."""

    def __init__(self, bundle: Bundle, engine: Engine, tokenizer: Tokenizer) -> None:
        """Put the loaded parts together."""
        self.bundle = bundle
        self.tokenizer = tokenizer
        self._engine = engine
        self._turns = threading.Condition()
        self._taken = False  # by the call that runs
        self._owner: int | None = None  # the thread that last advanced it
        self._closed = False

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def answers_at_once(self) -> int:
        """How many answers are computed together; further ones wait for their turn."""
        return 1

    def close(self) -> None:
        """Give the memory back, after the running call of another thread has ended.

        An open generation of this thread is cancelled. A second call does nothing.
        """
        if self._owner == threading.get_ident():  # it is suspended, for this thread is here
            self._close_engine()
            return
        with self._taking_turn(Cancellation()):
            self._close_engine()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _close_engine(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ModelError("the model is closed; load the bundle again")

    def _require(self, task: Task) -> None:
        """Refuse a task that the bundle was not made for, and a model that is closed.

        Raises:
            TaskError: The manifest does not list it.
            ModelError: The model is closed.
        """
        self._check_open()
        check_task(self.manifest, task)

    @contextlib.contextmanager
    def _turn(self, cancellation: Cancellation | None = None) -> Iterator[None]:
        """Wait for the engine and keep it while the block runs.

        Raises:
            ModelError: This thread has a generation open, or the model is closed.
            CancelledError: The request was taken back while it waited.
        """
        if self._owner == threading.get_ident():
            raise ModelError(
                "this thread has a generation open with this model; read it to its end or close"
                " it before you begin another"
            )
        with self._taking_turn(cancellation or Cancellation()):
            try:
                self._owner = threading.get_ident()
                self._check_open()
                yield
            finally:
                self._owner = None

    @contextlib.contextmanager
    def _taking_turn(self, cancellation: Cancellation) -> Iterator[None]:
        with cancellation.heard(self._call_waiting), self._turns:
            self._turns.wait_for(lambda: cancellation.cancelled or not self._taken)
            cancellation.check()
            self._taken = True
        try:
            yield
        finally:
            self._taken = False
            self._call_waiting()

    def _call_waiting(self) -> None:
        with self._turns:
            self._turns.notify_all()

    def _stream(
        self,
        begin: Callable[[], Generator[Piece, None, None]],
        cancellation: Cancellation,
    ) -> Generator[Piece, None, None]:
        """Hand the pieces of one generation out, each in the turn that the first one took.

        Args:
            begin: Gives the pieces, of which the last has ``finished``; called in the turn.
            cancellation: Ends it, between pieces or while it waits.

        Yields:
            The pieces. The turn is over before the last of them is given out.
        """
        with self._turn(cancellation), contextlib.closing(begin()) as pieces:
            for piece in pieces:
                if piece.finished is not None:
                    break
                yield piece
                self._owner = threading.get_ident()  # it may have moved to another thread
                self._check_open()
                cancellation.check()
        yield piece
