"""Many prompts at once through one engine: continuous batching with shared beginnings.

Workflow: `run` adds a decoding and gives its pieces. Whoever waits for a piece works: one of the
waiting threads runs steps for all decodings until its own piece is there, then another goes on.
So a single generation runs in its caller's thread and pays for no hand-over, and nothing runs that
nobody waits for. A step computes one chunk of one prompt and one token of every answer; requests
join and leave between steps.

Rules: an error of the engine ends the requests of that call alone, an error of a sampler or a
format, panics of their libraries included, its own.
A request that is taken back leaves at once where it waits, and after the step where it works.
While answers run, prompts are read in smaller chunks, so that the answers do not stall. A prompt
begins when its slot is leased, as late as possible: by then a request before it may have computed
what both begin with. A request's tokens do not depend on its neighbours beyond the rounding of
kernels that differ with the number of rows.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from time import monotonic, perf_counter

import numpy as np
from numpy.typing import NDArray

from edgewise.common.panics import contained
from edgewise.runtime.admission import AdmissionQueue, LateError
from edgewise.runtime.backends.protocol import Backend, VerifyingBackend
from edgewise.runtime.cancellation import CancelledError
from edgewise.runtime.chunks import BUSY_CHUNK, PREFILL_CHUNK
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.engine_error import EngineError
from edgewise.runtime.generation import Piece
from edgewise.runtime.model import ModelError
from edgewise.runtime.prefix_store import PrefixStore
from edgewise.runtime.slot_pool import LEAST_COPIED, Lease, SlotPool


class Scheduler:
    """See the module's docstring. Every method may be called from any thread."""

    def __init__(
        self,
        backend: Backend,
        pool: SlotPool,
        *,
        store: PrefixStore | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        busy_chunk: int = BUSY_CHUNK,
    ) -> None:
        """Begin with nothing to do.

        Args:
            backend: The engine.
            pool: Of the backend's slots.
            store: What is known of prompts beside what slots hold; None: nothing.
            prefill_chunk: Tokens of a prompt in one step, at least 1.
            busy_chunk: The same while answers run.
        """
        self._backend = backend
        self._verify = (
            backend.verify if isinstance(backend, VerifyingBackend) and backend.verifies else None
        )
        self.pool = pool
        self._store = PrefixStore() if store is None else store
        self._prefill_chunk = prefill_chunk
        self._busy_chunk = min(prefill_chunk, busy_chunk)
        self._lock = threading.Lock()
        self._resigned = threading.Condition(self._lock)  # the thread that led leads no more
        # What follows is only touched with the lock held; `_working` by the leading thread alone,
        # and by others with the lock held while nobody leads.
        self._waiting: AdmissionQueue[Decoding] = AdmissionQueue()
        self._working: list[Decoding] = []
        self._leading = False
        self._followers: list[tuple[Decoding, threading.Condition]] = []
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many requests have not begun."""
        return len(self._waiting)

    @property
    def working(self) -> int:
        """How many requests hold a slot."""
        return len(self._working)

    def run(self, decoding: Decoding) -> Generator[Piece, None, None]:
        """Give the pieces of an answer; closing the generator cancels, and so does any thread.

        Nothing happens before the first ``next``. The slot is free before the last piece is given
        out, and whenever the generator ends for another reason.

        Raises:
            ContextError: The prompt is empty, or no slot can hold it.
            ModelError: The scheduler was closed.
            LateError: The deadline passed before the request began.
            CancelledError: The cancellation of its standing was set.
        """
        self.pool.check_prompt(len(decoding.prompt))
        with self._lock:
            self._check_open()
            self._waiting.put(decoding)
        try:
            with decoding.standing.cancellation.heard(lambda: self._cancel(decoding)):
                while True:
                    piece = self._next_piece(decoding)
                    if piece.finished is not None:
                        break
                    yield piece
        finally:
            self._cancel(decoding)
        yield piece

    def close(self) -> None:
        """End every generation after the step that runs; a second call does nothing."""
        with self._lock:
            self._closed = True
            for _, ready in self._followers:
                ready.notify()
            self._resigned.wait_for(lambda: not self._leading)
            for decoding in self._working:
                decoding.cancelled = True
            self._sweep()

    def _check_open(self) -> None:
        if self._closed:
            raise ModelError("the model is closed; load the bundle again")

    def _next_piece(self, decoding: Decoding) -> Piece:
        """Wait for a piece, at work where nobody else is."""
        while True:
            with self._lock:
                while self._leading and not self._has_news(decoding):
                    self._follow(decoding)
                if self._has_news(decoding):
                    self._call_follower()  # who may have been woken to lead is this thread
                    return self._news(decoding)
                self._leading = True
            try:
                while not self._has_news(decoding):
                    self._step()
            except BaseException:
                self._break_off()
                raise
            finally:
                with self._lock:
                    self._leading = False
                    self._sweep()
                    self._resigned.notify_all()
                    self._call_follower()

    def _has_news(self, decoding: Decoding) -> bool:
        """Whether its thread has nothing to wait for."""
        return bool(decoding.cancelled or decoding.pieces or decoding.error or self._closed)

    def _news(self, decoding: Decoding) -> Piece:
        if decoding.pieces and not decoding.standing.cancellation.cancelled:
            return decoding.pieces.popleft()
        if decoding.error is not None:
            raise decoding.error
        self._check_open()
        raise CancelledError("the request was cancelled")

    def _follow(self, decoding: Decoding) -> None:
        ready = threading.Condition(self._lock)
        self._followers.append((decoding, ready))
        ready.wait()
        self._followers.remove((decoding, ready))

    def _call_follower(self) -> None:
        """Have one of those that wait lead, if nobody does."""
        if not self._leading and self._followers:
            self._followers[0][1].notify()

    def _cancel(self, decoding: Decoding) -> None:
        with self._lock:
            decoding.cancelled = True
            self._waiting.remove(decoding)
            for follower, ready in self._followers:
                if follower is decoding:
                    ready.notify()
            if not self._leading:
                self._sweep()
                self._call_follower()

    def _sweep(self) -> None:
        """Give back the slots of what was cancelled."""
        for decoding in [one for one in self._working if one.cancelled]:
            self._leave(decoding)

    def _leave(self, decoding: Decoding, *, intact: bool = True) -> None:
        if decoding.slot is not None:
            self.pool.give_back(decoding.slot, intact=intact)
            decoding.slot = None
            self._working.remove(decoding)

    def _break_off(self) -> None:
        """End what works after half a step, of which nobody knows what it has written.

        Ctrl-C does this to the other answers of a program, if it goes on.
        """
        error = EngineError("this answer was broken off in the middle of a step; ask again")
        with self._lock:
            broken = list(self._working)
            self._fail(broken, error)
            for decoding in broken:
                decoding.publish(0.0)
            for _, ready in self._followers:
                ready.notify()

    # Steps: only the leading thread is here.

    def _step(self) -> None:
        begin = perf_counter()
        with self._lock:
            self._sweep()
            published = self._waiting.late(monotonic())
            for decoding in published:
                self._waiting.remove(decoding)
                decoding.fail(LateError("the deadline of this request passed before its turn"))
        prompt = self._next_prompt()
        published += self._working
        if prompt is not None and prompt.slot is None:  # it failed before its first step
            published.append(prompt)
        answering = [one for one in self._working if one.pending]
        if prompt is not None:
            self._read_prompt(prompt, busy=bool(answering), begin=begin)
        since = perf_counter()
        drafts = self._drafts(answering)
        for one in list(answering):
            try:
                one.begin_mask()
            except BaseException as error:  # noqa: BLE001 - of this one's format
                self._fail([one], contained(error), intact=True)
                answering.remove(one)
        alone = len(answering) == 1
        several = [one for one in answering if len(one.pending) > 1 or (alone and one.drafts)]
        for run in self._runs(one for one in answering if one not in several):
            self._write_tokens(run, begin)
        for one in several:
            self._write_several(one, drafts, begin, since)
            since = perf_counter()
        seconds = perf_counter() - begin
        with self._lock:
            new = {id(one) for one in published if one.publish(seconds)}
            for one in answering:
                self._waiting.count(one.standing.client, 1)
            for decoding, ready in self._followers:
                if id(decoding) in new:
                    ready.notify()

    def _next_prompt(self) -> Decoding | None:
        """Return what to read on, beginning the next request if there is a place for it."""
        reading = [one for one in self._working if one.in_prompt]
        with self._lock:
            waiting = self._waiting.peek()
        if (
            waiting is not None
            and all(waiting.standing.priority > one.standing.priority for one in reading)
            and self._begin(waiting)
        ):
            return waiting
        return max(reading, key=lambda one: one.standing.priority, default=None)

    def _begin(self, decoding: Decoding) -> bool:
        try:
            decoding.begin(self.pool.longest_prompt)
            # Before the lease, which may put what it displaces in the place of what is needed.
            known = self._store.longest(decoding.prompt[:-1])
            lease = self.pool.lease(decoding.prompt, decoding.answer_room)
        except BaseException as error:  # noqa: BLE001 - of what the engine reads for the store
            with self._lock:
                self._waiting.remove(decoding)
            decoding.fail(contained(error))
            return True
        if lease is None:
            return False
        with self._lock:
            if not self._waiting.remove(decoding):  # cancelled in this moment
                self.pool.give_back(lease.slot, intact=lease.copied_from is None)
                return False
        decoding.slot = lease.slot
        self._working.append(decoding)
        try:
            decoding.computed = decoding.reused = self._fill(lease, decoding.prompt[:known])
        except BaseException as error:  # noqa: BLE001 - an engine's, and so this one's alone
            self._fail([decoding], contained(error))
        return True

    def _fill(self, lease: Lease, stored: Sequence[int]) -> int:
        """Bring what is known of a prompt into its slot; return how many tokens that are."""
        if len(stored) >= lease.reused + LEAST_COPIED:
            cache = self._store.read(stored)
            if cache is not None:
                self._backend.write_cache(lease.slot, cache)
                self.pool.fill(lease.slot, stored)
                return len(stored)
        if lease.copied_from is not None:
            self._backend.copy_prefix(lease.copied_from, lease.slot, lease.reused)
        return lease.reused

    def _read_prompt(self, decoding: Decoding, *, busy: bool, begin: float) -> None:
        slot = decoding.slot
        if slot is None:
            return
        size = self._busy_chunk if busy else self._prefill_chunk
        chunk = list(decoding.prompt[decoding.computed : decoding.computed + size])
        logits = self._compute(
            [decoding], slot, np.array([chunk], np.int64), [self.pool.append(slot, chunk)]
        )
        if logits is None:
            return
        if decoding.computed + len(chunk) < len(decoding.prompt):
            decoding.note_chunk(len(chunk))
            return
        decoding.computed += len(chunk)
        self.pool.share(slot)
        self._take(decoding, logits, begin)

    def _write_tokens(self, run: list[Decoding], begin: float) -> None:
        """Feed the chosen token of each decoding of neighbouring slots."""
        by_slot = {one.slot: one for one in run if one.slot is not None}
        first, last = min(by_slot), max(by_slot)
        token_ids = np.zeros((last - first + 1, 1), np.int64)
        pasts = []
        for row in range(last - first + 1):
            one = by_slot.get(first + row)
            if one is not None:
                token_ids[row] = one.pending
                pasts.append(self.pool.append(first + row, one.pending))
            else:
                pasts.append(self.pool.scratch(first + row) or 0)
        logits = self._compute(run, first, token_ids, pasts)
        if logits is not None:
            for slot, one in by_slot.items():
                self._take(one, logits[slot - first : slot - first + 1], begin)

    def _drafts(self, answering: list[Decoding]) -> list[int]:
        """Return what may follow what is fed in this step; often nothing.

        A draft pays where no other answer shares the step.
        """
        if self._verify is None or len(answering) != 1 or not answering[0].drafts:
            return []
        decoding = answering[0]
        try:
            return decoding.propose(0 if decoding.slot is None else self.pool.room(decoding.slot))
        except BaseException as error:  # noqa: BLE001 - of the model that drafts for this one
            self._fail([decoding], contained(error), intact=True)
            answering.clear()
            return []

    def _write_several(
        self, decoding: Decoding, drafts: Sequence[int], begin: float, since: float
    ) -> None:
        """Feed one decoding what is forced and what may follow, at once."""
        slot = decoding.slot
        if slot is None:
            return
        if len(decoding.pending) > self._prefill_chunk:  # as a prompt is, and for the same reason
            self._write_chunk(decoding, slot)
            return
        fed = (*decoding.pending, *drafts)
        logits = self._compute(
            [decoding], slot, np.array([fed], np.int64), [self.pool.append(slot, fed)], len(drafts)
        )
        if logits is None:
            return
        self._take(decoding, logits, begin, drafts)
        decoding.learn(fed=len(fed), seconds=perf_counter() - since)

    def _write_chunk(self, decoding: Decoding, slot: int) -> None:
        """Feed the first of very many tokens that are forced."""
        chunk = list(decoding.pending[: self._prefill_chunk])
        past = self.pool.append(slot, chunk)
        if self._compute([decoding], slot, np.array([chunk], np.int64), [past]) is not None:
            decoding.pending = decoding.pending[len(chunk) :]

    def _runs(self, answering: Iterable[Decoding]) -> list[list[Decoding]]:
        """Part decodings into runs of slots that one call of the engine computes.

        Where rows share the work, a slot between two that has nothing to compute costs less than
        a call of its own, provided that there is a place where its row may be written.
        """
        runs: list[list[Decoding]] = []
        previous = -1
        for one in sorted(answering, key=lambda one: one.slot or 0):
            slot = one.slot or 0
            joined = (
                bool(runs)
                and self._backend.rows_share_work
                and all(self.pool.scratch(gap) is not None for gap in range(previous + 1, slot))
            )
            if joined:
                runs[-1].append(one)
            else:
                runs.append([one])
            previous = slot
        return runs

    def _compute(
        self,
        decodings: list[Decoding],
        first: int,
        token_ids: NDArray[np.int64],
        pasts: list[int],
        drafts: int = 0,
    ) -> NDArray[np.float32] | None:
        """Run the engine; of one row with drafts, the logits from its last certain token on."""
        try:
            if drafts and self._verify is not None:
                return self._verify(first, token_ids[0], pasts[0])[-1 - drafts :]
            return self._backend.step(first, token_ids, np.array(pasts, np.int32))
        except BaseException as error:  # noqa: BLE001 - whatever an engine raises is theirs alone
            self._fail(decodings, contained(error))
            return None

    def _fail(
        self, decodings: Iterable[Decoding], error: Exception, *, intact: bool = False
    ) -> None:
        for one in decodings:
            one.fail(error)
            self._leave(one, intact=intact)

    def _take(
        self,
        decoding: Decoding,
        logits: NDArray[np.float32],
        begin: float,
        drafts: Sequence[int] = (),
    ) -> None:
        slot = decoding.slot
        if decoding.cancelled or slot is None:
            return
        ended, decoding.agreed = True, 0
        try:
            ended = decoding.take(logits, self.pool.room(slot), perf_counter() - begin, drafts)
        except BaseException as error:  # noqa: BLE001 - a sampler's, and so this request's alone
            decoding.fail(contained(error))
        if drafts:
            self.pool.trim(slot, self.pool.length(slot) - len(drafts) + decoding.agreed)
        if ended:
            self._leave(decoding)
        elif decoding.window is not None and self.pool.room(slot) < len(decoding.pending):
            seen = self.pool.tokens(slot)
            kept = decoding.forget_middle(seen, len(seen) + self.pool.room(slot))
            self.pool.trim(slot, kept)
