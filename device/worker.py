"""The thread that runs the model: one job after the other, whatever happens in one of them.

Rules: generation never runs on the connection's thread, which must serve keep-alive. A job that has
been settled from outside (cancelled, timed out) is left at its next piece. An exception ends its
own job only. What it says reaches the requester only if it is an ``EdgewiseError``, whose text is
written for users; of any other the requester learns only that there was one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator

from edgewise.common.errors import EdgewiseError
from edgewise.device.job import Job, WaitingLine
from edgewise.device.reply_messages import ErrorCode, Failure, Final
from edgewise.device.request_messages import Request
from edgewise.device.text_generator import TextGenerator
from edgewise.runtime.generation import Piece
from edgewise.runtime.options import GenerationOptions

logger = logging.getLogger(__name__)

MAX_FAILURE_LENGTH = 500  # characters of an error's text that reach the requester


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
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        stop=request.stop,
        raw=request.raw,
        beams=request.beams,
        beam_groups=request.beam_groups,
        diversity_penalty=request.diversity_penalty,
        length_penalty=request.length_penalty,
    )


class Worker:
    """See the module's docstring."""

    def __init__(
        self,
        model: TextGenerator,
        line: WaitingLine,
        *,
        max_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``start`` begins.

        Args:
            model: What answers.
            line: Where jobs come from; closing it ends the worker.
            max_tokens: The most tokens for a request that does not say.
            clock: In seconds.
        """
        self._model = model
        self._line = line
        self._max_tokens = max_tokens
        self._clock = clock
        self._job: Job | None = None
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    @property
    def job(self) -> Job | None:
        """The job that runs."""
        return self._job

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended, after the line was closed; False if it has not."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._line.take()) is not None:
            self._job = job
            try:
                self._answer(job)
            except EdgewiseError as error:
                self._fail(job, ErrorCode.INVALID, str(error)[:MAX_FAILURE_LENGTH])
            except Exception:
                logger.exception("Generating failed for request %s", job.request.id)
                self._fail(
                    job, ErrorCode.FAILED, "Generating failed on the device; its log says why."
                )
            finally:
                self._job = None

    def _answer(self, job: Job) -> None:
        if job.replies.settled:
            return
        request = job.request
        job.started_at = self._clock()
        prompt = request.prompt
        messages = [{"role": turn.role, "content": turn.content} for turn in request.messages or ()]
        pieces = self._model.stream(
            messages if prompt is None else prompt,
            generation_options(request, max_tokens=self._max_tokens),
        )
        try:
            self._deliver(job, pieces)
        finally:
            pieces.close()

    def _deliver(self, job: Job, pieces: Generator[Piece, None, None]) -> None:
        finished: str | None = None
        for piece in pieces:
            now = self._clock()
            job.count_tokens(len(piece.token_ids), now)
            if now >= job.deadline:
                self._settle(job, "timeout", None)
            if job.replies.settled:
                return
            job.replies.add(piece.text)
            job.statistics = piece.statistics or job.statistics
            finished = piece.finished or finished
        self._settle(job, "ok", finished)

    def _settle(self, job: Job, status: str, finish_reason: str | None) -> None:
        job.replies.settle(
            lambda text, chunks: Final(
                id=job.request.id,
                status=status,
                text=text,
                n_chunks=chunks,
                usage=job.usage(self._clock()),
                finish_reason=finish_reason,
            )
        )

    def _fail(self, job: Job, code: ErrorCode, message: str) -> None:
        job.replies.settle(lambda _text, _chunks: Failure(job.request.id, code, message))
