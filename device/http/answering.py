"""What one request asked for, made in threads and read in the event loop.

Workflow: make it of generators that have not begun; iterate to get what they give in the order in
which it comes, each with the number of its generator; `close` in any case.

Rules: each generator runs in a thread of its own from its turn to its end, and is closed there. A
place is given back when its thread is done with the engine, not when the reader has lost interest.
The first error ends all generators of the request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from edgewise.common.panics import as_exception
from edgewise.device.http.line import Line, Ticket
from edgewise.runtime.admission import Standing

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Given(Generic[Item]):
    """An item, which may be anything, an exception too."""

    item: Item


class Answering(Generic[Item]):
    """See the module's docstring."""

    def __init__(
        self,
        generators: Sequence[Generator[Item, None, None]],
        *,
        line: Line,
        executor: Executor,
        standing: Standing,
    ) -> None:
        """Stand in line, once for each generator.

        Args:
            generators: Of which none has begun.
            line: Where the turns come from.
            executor: With a thread for each place of the line.
            standing: Whose they are; its cancellation, which the generators listen to, is set at
                the end.

        Raises:
            ApiError: There is no room in the line.
        """
        line.check_room(len(generators))
        self._loop = asyncio.get_running_loop()
        self._line = line
        self._executor = executor
        # An item, what went wrong, or None at the end of a generator.
        self._news: asyncio.Queue[tuple[int, _Given[Item] | BaseException | None]] = asyncio.Queue()
        self._cancellation = standing.cancellation
        self._unfinished = len(generators)
        self._waiting = dict(enumerate(generators))
        self._tickets: dict[int, Ticket] = {}
        for index in range(len(generators)):
            self._tickets[index] = line.join(standing.client, partial(self._begin, index))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Item]]:
        """Give items until every generator has ended.

        Raises:
            Exception: What a generator raised, or what `abort` was given.
        """
        while self._unfinished:
            index, news = await self._news.get()
            if isinstance(news, BaseException):
                raise news
            if news is None:
                self._unfinished -= 1
            else:
                yield index, news.item

    def count(self, index: int, tokens: int) -> None:
        """Note what a generator gave, so that others of this client wait for those of the rest."""
        self._line.count(self._tickets[index], tokens)

    def abort(self, error: BaseException) -> None:
        """Have the reader get an error in place of what is still to come; any thread may."""
        self._loop.call_soon_threadsafe(self._abort, error)

    def _abort(self, error: BaseException) -> None:
        self.close()
        self._news.put_nowait((0, error))

    def close(self) -> None:
        """End what runs after its step, and what waits at once; a second call does nothing."""
        self._cancellation.cancel()
        for index, generator in self._waiting.items():
            generator.close()
            self._line.leave(self._tickets[index])
        self._waiting.clear()

    def _begin(self, index: int) -> None:
        generator = self._waiting.pop(index)
        work = self._loop.run_in_executor(self._executor, self._work, index, generator)
        work.add_done_callback(lambda _: self._line.leave(self._tickets[index]))

    def _work(self, index: int, generator: Generator[Item, None, None]) -> None:
        """Run a generator; in a thread of the executor."""
        try:
            with contextlib.closing(generator):
                for item in generator:
                    if self._cancellation.cancelled:
                        return
                    self._hand_over(index, _Given(item))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the reader waits for it
            # What is no Exception would end the event loop.
            self._hand_over(index, as_exception(error))
        else:
            self._hand_over(index, None)

    def _hand_over(self, index: int, news: _Given[Item] | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the reader
            self._loop.call_soon_threadsafe(self._news.put_nowait, (index, news))
