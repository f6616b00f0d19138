"""Keeps an answer to a format: which tokens may follow, and which must.

Workflow: one `ConstraintCompiler` a model, made when first needed; `compile` a format for each
answer. The `Constraint` is told every token by `accept`, which returns those that must follow it
and need no choice; `begin_mask` starts to compute which tokens may come next while the engine
computes their logits, and `apply` forbids the others. Of what may or will come it knows more than
what is forced: `likely` and `possible` serve those who draft.

Rules: grammars come from outside, so what compiling and following them costs is limited by
llguidance's own limits and by their size. The library is an extra of this package, loaded only when
a format is asked for. JSON is written without free white space: fewer tokens, and most of them
forced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.common.panics import contained
from edgewise.runtime.output_format import FormatError, OutputFormat

_JSON_OPTIONS = {"whitespace_flexible": False}
_SILENT = 0


class ConstraintCompiler:
    """Compiles formats for one tokenizer."""

    def __init__(
        self, tokenizer_json: str, *, vocabulary_size: int, end_ids: Sequence[int]
    ) -> None:
        """Read the vocabulary, which takes some tenths of a second.

        Args:
            tokenizer_json: The bundle's tokenizer.
            vocabulary_size: Length of a row of logits.
            end_ids: Tokens that end an answer.

        Raises:
            FormatError: llguidance is not installed, or can not read the tokenizer.
        """
        try:
            import llguidance  # noqa: PLC0415  # an extra, and slow to load
        except ImportError as error:
            raise FormatError(
                "formats of the output need llguidance, which is not installed: "
                "pip install 'edgewise[constraints]'"
            ) from error
        self._library: Any = llguidance
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer_json, n_vocab=vocabulary_size, eos_token=list(end_ids) or None
            )
        except (ValueError, RuntimeError) as error:
            raise FormatError(
                f"this model's tokenizer can not be used with a format: {error}"
            ) from error
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="constraint")

    def compile(self, output_format: OutputFormat) -> Constraint:
        """Begin an answer in a format.

        Raises:
            FormatError: It is not valid, uses what is not supported, or is too complex.
        """
        matcher = self._library.LLMatcher
        try:
            grammar = _grammar(matcher, output_format)
            machine = matcher(self._tokenizer, grammar, log_level=_SILENT)
        except BaseException as error:
            contained(error)
            raise _refusal(output_format, str(error) or type(error).__name__) from error
        if machine.is_error():
            raise _refusal(output_format, machine.get_error())
        return Constraint(machine, self._tokenizer, self._workers)

    def close(self) -> None:
        """End the thread that computes masks."""
        self._workers.shutdown(wait=True, cancel_futures=True)


class Constraint:
    """One answer's state in its format."""

    def __init__(self, machine: Any, tokenizer: Any, workers: ThreadPoolExecutor) -> None:
        """Begin; `ConstraintCompiler.compile` makes these."""
        self._machine = machine
        self._tokenizer = tokenizer
        self._workers = workers
        self._mask: Future[bytes] | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return bool(self._machine.is_stopped())

    def forced(self) -> tuple[int, ...]:
        """Take the tokens that must come next, whatever the model says; often none."""
        if self.complete:
            return ()
        tokens = tuple(int(token) for token in self._machine.compute_ff_tokens())
        if tokens:
            self._machine.consume_tokens(list(tokens))
        return tokens

    def likely(self) -> tuple[int, ...]:
        """Return tokens that the next ones probably are, where their text is certain.

        A text that must come can be written with several tokens, of which the model is free to
        choose. Most often it chooses those that the tokenizer would. Not beside a mask's making.
        """
        text = self._machine.compute_ff_bytes()
        return tuple(self._tokenizer.tokenize_bytes(text)) if text else ()

    def possible(self, tokens: Sequence[int]) -> int:
        """Return how many of these tokens, from the first, may come; not beside a mask's making."""
        return int(self._machine.validate_tokens(list(tokens)))

    def begin_mask(self) -> None:
        """Begin to compute which tokens may come next, in another thread."""
        self._mask = self._workers.submit(self._machine.compute_bitmask)

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Make every token impossible that may not come next.

        Args:
            logits: [vocabulary], float32; changed in place.

        Raises:
            FormatError: The format became too complex to follow.
        """
        if self._mask is None:
            self.begin_mask()
        mask = self._mask.result() if self._mask is not None else b""
        self._mask = None
        if self._machine.is_error():
            raise FormatError(f"the format can not be followed: {_first_line(self._machine)}")
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(logits), bitorder="little")
        logits[bits == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Note the token that was chosen.

        Raises:
            FormatError: It may not come here.
        """
        self._mask = None
        if not self._machine.consume_token(token) and self._machine.is_error():
            raise FormatError(f"the format can not be followed: {_first_line(self._machine)}")


def _grammar(matcher: Any, output_format: OutputFormat) -> str:
    text = output_format.text
    match output_format.kind:
        case "json":
            grammar = matcher.grammar_from_json_schema(text, overrides=_JSON_OPTIONS)
        case "regex":
            grammar = matcher.grammar_from_regex(text)
        case "choice":
            rules = " | ".join(json.dumps(choice) for choice in output_format.choices)
            grammar = matcher.grammar_from_lark(f"start: {rules}")
        case "lark":
            grammar = matcher.grammar_from_lark(text)
    return str(grammar)


def _refusal(output_format: OutputFormat, cause: str) -> FormatError:
    first, *more = cause.strip().splitlines()
    # A regular expression is quoted over several lines before its mistake is named.
    mistake = next((line for line in more if line.startswith("error: ")), None)
    told = first if mistake is None else f"{first} {mistake.removeprefix('error: ')}"
    return FormatError(f"the {output_format.kind} format can not be used: {told}")


def _first_line(machine: Any) -> str:
    lines = str(machine.get_error()).strip().splitlines()
    return lines[0] if lines else "no cause was given"
