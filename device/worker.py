"""A thread that runs the model: one job after the other, whatever happens in one of them.

There are as many workers as the model computes answers at once (see workers.py), and what they ask
for at the same time is computed together. Jobs about texts that wait at the same time and ask for
the same go through the model as one.

Rules: the model never runs on the connection's thread, which must serve keep-alive. A job that has
been settled from outside (cancelled, timed out) is left at once where it waits inside the model,
else after the step, or the texts, that the model is at. An exception ends its own job only. What it
says reaches the requester only if it is an ``EdgewiseError`` about what was asked, whose text is
written for users; of any other, the engine's among them, the requester learns only that there was
one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import cast

from edgewise.common.errors import EdgewiseError
from edgewise.device.abilities import Abilities
from edgewise.device.job import Job
from edgewise.device.reply_messages import ErrorCode, Failure, Final, Results
from edgewise.device.request_messages import OPTIONS, Request, TextsRequest
from edgewise.device.text_generator import AnyModel, TextGenerator
from edgewise.device.told_tokens import told_tokens
from edgewise.device.verbs import TASKS
from edgewise.device.waiting_line import WaitingLine
from edgewise.runtime.admission import LateError
from edgewise.runtime.cancellation import CancelledError
from edgewise.runtime.engine_error import EngineError
from edgewise.runtime.generation import Piece, TokenLogProbability
from edgewise.runtime.judging import DEFAULT_TOP, Judge, Judgement, judge
from edgewise.runtime.options import GenerationOptions

logger = logging.getLogger(__name__)

MAX_FAILURE_LENGTH = 500  # characters of an error's text that reach the requester
JUDGED_TOGETHER = 32  # texts of several jobs that share a turn of the model
JUDGED_AT_ONCE = 8  # texts in one call, between which a job that has been settled is left


def generation_options(request: Request, *, max_tokens: int) -> GenerationOptions:
    """Translate a request's options; what it leaves out is the model's default.

    Args:
        request: The request.
        max_tokens: The most tokens, where the request does not say.

    Raises:
        EdgewiseError: If the model's options do not take a value.
    """
    return GenerationOptions(
        max_tokens=max_tokens if request.max_tokens is None else request.max_tokens,
        **{name: getattr(request, name) for name in OPTIONS},
    )


class Worker:
    """See the module's docstring."""

    def __init__(
        self,
        model: AnyModel,
        line: WaitingLine,
        *,
        max_tokens: int,
        number: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``start`` begins.

        Args:
            model: What answers.
            line: Where jobs come from; closing it ends the worker.
            max_tokens: The most tokens for a request that does not say.
            number: Which of the workers it is.
            clock: In seconds.
        """
        self._model = model
        self._abilities = Abilities.of(model)
        self._line = line
        self._max_tokens = max_tokens
        self._clock = clock
        self._jobs: tuple[Job, ...] = ()
        self._thread = threading.Thread(target=self._run, name=f"model-{number}", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that run: none, one, or several about texts."""
        return self._jobs

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, after the line was closed, up to ``timeout`` seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._line.take()) is not None:
            try:
                if isinstance(job.request, TextsRequest):
                    self._jobs = (job, *self._line.take_also(_Companions(job)))
                    self._guard(self._judge, self._jobs)
                else:
                    self._jobs = (job,)
                    self._guard(self._answer, self._jobs)
            finally:
                self._jobs = ()

    def _guard(self, work: Callable[[tuple[Job, ...]], None], jobs: tuple[Job, ...]) -> None:
        """Do the work of jobs; whatever goes wrong is their end and nobody else's."""
        try:
            work(jobs)
        except LateError:  # the warden, who watches the clock as well, has not come to it yet
            for job in jobs:
                self._settle(job, "timeout", None)
        except CancelledError:
            logger.debug("The model has left %s", _names(jobs))  # it was settled before
        except MemoryError:
            logger.exception("There was not enough memory for %s", _names(jobs))
            message = "The device has not enough memory for this now; try again later."
            self._fail(jobs, ErrorCode.NO_MEMORY, message)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if isinstance(error, EdgewiseError) and not isinstance(error, EngineError):
                self._fail(jobs, ErrorCode.INVALID, str(error)[:MAX_FAILURE_LENGTH])
                return
            logger.exception("The model failed for %s", _names(jobs))
            self._fail(jobs, ErrorCode.FAILED, "The model failed on the device; its log says why.")

    # Texts that are judged

    def _judge(self, jobs: tuple[Job, ...]) -> None:
        jobs = tuple(job for job in jobs if not job.replies.settled)
        for job in jobs:
            job.started_at = job.started_at or self._clock()
        requests = [cast("TextsRequest", job.request) for job in jobs]
        texts = [text for request in requests for text in request.texts]
        results: list[Judgement] = []
        try:
            while len(results) < len(texts):
                if all(job.replies.settled for job in jobs):
                    return
                part = texts[len(results) : len(results) + JUDGED_AT_ONCE]
                results += judge(
                    cast("Judge", self._model),
                    TASKS[jobs[0].verb],
                    part,
                    top=requests[0].top or DEFAULT_TOP,
                )
        except EdgewiseError:
            if len(jobs) == 1:
                raise
            for job in jobs:  # one of them is at fault, and the others shall not suffer
                self._guard(self._judge, (job,))
            return
        for job, request in zip(jobs, requests, strict=True):
            found, results = results[: len(request.texts)], results[len(request.texts) :]
            self._line.count(job.key.client, len(request.texts))
            self._settle_results(job, found)

    def _settle_results(self, job: Job, found: list[Judgement]) -> None:
        job.replies.settle(
            lambda _text, _chunks: Results(job.request.id, tuple(found), job.usage(self._clock()))
        )

    # Text that is generated

    def _answer(self, jobs: tuple[Job, ...]) -> None:
        (job,) = jobs
        if job.replies.settled:
            return
        request = cast("Request", job.request)
        job.started_at = self._clock()
        pieces = cast("TextGenerator", self._model).stream(
            self._abilities.prompt_of(request),
            generation_options(request, max_tokens=self._max_tokens),
            standing=job.standing,
            **self._abilities.seen(request),
        )
        try:
            self._deliver(job, pieces)
        finally:
            pieces.close()

    def _deliver(self, job: Job, pieces: Generator[Piece, None, None]) -> None:
        finished: str | None = None
        told: list[TokenLogProbability] = []
        for piece in pieces:
            now = self._clock()
            job.count_tokens(len(piece.token_ids), now)
            self._line.count(job.key.client, len(piece.token_ids))
            if now >= job.deadline:
                self._settle(job, "timeout", None)
            if job.replies.settled:
                return
            job.replies.add(piece.text)
            told += piece.log_probabilities
            job.statistics = piece.statistics or job.statistics
            finished = piece.finished or finished
        self._settle(job, "ok", finished, told)

    def _settle(
        self,
        job: Job,
        status: str,
        finish_reason: str | None,
        told: Sequence[TokenLogProbability] = (),
    ) -> None:
        tokenizer = getattr(self._model, "tokenizer", None)  # which every model that tells has
        logprobs = told_tokens(told, tokenizer.bytes_of) if told and tokenizer else ()
        job.replies.settle(
            lambda text, chunks: Final(
                id=job.request.id,
                status=status,
                text=text,
                n_chunks=chunks,
                usage=job.usage(self._clock()),
                finish_reason=finish_reason,
                logprobs=logprobs,
            )
        )

    def _fail(self, jobs: tuple[Job, ...], code: ErrorCode, message: str) -> None:
        for job in jobs:
            self._settle_failure(job, Failure(job.request.id, code, message))

    @staticmethod
    def _settle_failure(job: Job, failure: Failure) -> None:
        job.replies.settle(lambda _text, _chunks: failure)


def _names(jobs: tuple[Job, ...]) -> str:
    return ", ".join(f"{job.request.id} of {job.key.client}" for job in jobs)


class _Companions:
    """Finds jobs that can share the turn of one about texts: the same is asked, and all fit."""

    def __init__(self, first: Job) -> None:
        self._first = first
        self._room = JUDGED_TOGETHER - len(cast("TextsRequest", first.request).texts)

    def __call__(self, job: Job) -> bool:
        request, wanted = job.request, cast("TextsRequest", self._first.request)
        if not isinstance(request, TextsRequest) or len(request.texts) > self._room:
            return False
        if job.verb != self._first.verb or request.top != wanted.top:
            return False
        self._room -= len(request.texts)
        return True
