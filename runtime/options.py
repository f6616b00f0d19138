"""How to generate: what a caller may ask for, checked before anything runs.

Rules: None means "as the bundle advises" (its generation_config), and where that advises nothing,
greedy decoding with every filter off. Several beams are searched without sampling, so what is asked
for at sampling is refused beside them and what the bundle advises for it is left out; the
repetition penalty holds for both. Values come from the network too, so a wrong one is an
`OptionsError` that names the value and what is accepted, never a NaN in the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from edgewise.runtime.option_checks import (
    OptionsError,
    check_number,
    check_texts,
    check_whole,
    is_number,
)
from edgewise.runtime.output_format import OutputFormat

__all__ = ["GenerationOptions", "OptionsError", "SamplingDefaults", "SamplingSettings"]

Number = TypeVar("Number", int, float)

TEMPERATURE_MAX = 100.0
REPETITION_PENALTY_MAX = 100.0
OCCURRENCE_PENALTY_MAX = 2.0  # of frequency_penalty and presence_penalty, and its negative
LOGIT_BIAS_MAX = 100.0  # and its negative
LOGIT_BIAS_MAX_COUNT = 1024  # tokens
TOKEN_ID_MAX = 2**31 - 1
DRY_MULTIPLIER_MAX = 100.0
DRY_BASE_MAX = 100.0
DRY_ALLOWED_LENGTH_MAX = 2**31 - 1  # tokens
DRY_BREAKERS = ("\n", ":", '"', "*")
DRY_BREAKER_MAX_LENGTH = 64  # characters
SEED_MAX = 2**64 - 1
WINDOW_MIN = 32  # tokens
STOP_MAX_COUNT = 32  # strings
STOP_MAX_LENGTH = 1024  # characters
BEAMS_MAX = 64
SEVERAL_MAX = 64  # answers to one prompt
LOGPROBS_MAX = 20  # likeliest tokens of a step
DIVERSITY_PENALTY_MAX = 100.0
LENGTH_PENALTY_MAX = 10.0  # and its negative


@dataclass(frozen=True)
class SamplingDefaults:
    """What the checkpoint's generation_config advises; None where it advises nothing.

    A config without ``do_sample: true`` advises greedy decoding: its temperature is None here.
    """

    temperature: float | None = None
    top_k: int | None = None  # tokens
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class SamplingSettings:
    """Concrete settings of a sampler; the neutral value of each switches it off."""

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # tokens; 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None  # None: fresh entropy
    typical_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2  # tokens
    dry_breakers: tuple[str, ...] = DRY_BREAKERS


@dataclass(frozen=True)
class GenerationOptions:
    """What to generate, and how. Raises `OptionsError` when a value is outside what is accepted."""

    max_tokens: int = 256  # at least 1
    temperature: float | None = None  # 0 (greedy) to TEMPERATURE_MAX
    top_k: int | None = None  # tokens; 0: all
    top_p: float | None = None  # above 0, up to 1 (off)
    min_p: float | None = None  # 0 (off) to 1
    repetition_penalty: float | None = None  # above 0; 1: off, over 1: repeat less
    typical_p: float = 1.0  # above 0, up to 1 (off)
    frequency_penalty: float = 0.0  # -2 to 2; taken from a logit for each use in the answer
    presence_penalty: float = 0.0  # -2 to 2; taken from a logit once the answer has the token
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)  # -100 to 100 by id
    dry_multiplier: float = 0.0  # 0: off; see dry.py
    dry_base: float = 1.75  # at least 1
    dry_allowed_length: int = 2  # tokens that may be repeated in a row, at least 1
    dry_breakers: tuple[str, ...] = DRY_BREAKERS  # texts over which no repetition reaches
    seed: int | None = None  # 0 to SEED_MAX; None: another result each time
    stop: tuple[str, ...] = ()  # texts that end the answer and are not part of it
    raw: bool = False  # True: the prompt is continued as it is, without the chat template
    beams: int = 1  # 1 to BEAMS_MAX; over 1: beam search, which samples nothing
    beam_groups: int = 1  # divides beams; over 1: groups that avoid each other's tokens
    diversity_penalty: float = 0.0  # taken from a log-probability for each use by earlier groups
    length_penalty: float = 1.0  # beams are ranked by log-probability / tokens ** length_penalty
    output_format: OutputFormat | None = None  # what the answer must look like
    logprobs: int | None = None  # 0 to LOGPROBS_MAX: of each token, and of so many likely ones
    window: int | None = None  # WINDOW_MIN or more tokens, see Decoding; None: the context ends it

    def __post_init__(self) -> None:
        check_whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        check_whole("window", self.window, WINDOW_MIN, 2**31 - 1, optional=True)
        self._check_sampling()
        self._check_penalties()
        if not isinstance(self.raw, bool):
            raise OptionsError(f"raw is {self.raw!r}; accepted: True or False")
        check_texts("stop", self.stop, most=STOP_MAX_COUNT, longest=STOP_MAX_LENGTH)
        object.__setattr__(self, "stop", tuple(self.stop))
        if self.output_format is not None and self.beams > 1:
            raise OptionsError("an output format goes with one beam; leave beams out")
        check_whole("logprobs", self.logprobs, 0, LOGPROBS_MAX, optional=True)
        self._check_beams()

    def _check_sampling(self) -> None:
        check_number("temperature", self.temperature, 0.0, TEMPERATURE_MAX, optional=True)
        check_whole("top_k", self.top_k, 0, 2**31 - 1, optional=True)
        check_number("top_p", self.top_p, 0.0, 1.0, optional=True, low_excluded=True)
        check_number("min_p", self.min_p, 0.0, 1.0, optional=True)
        check_number("typical_p", self.typical_p, 0.0, 1.0, low_excluded=True)
        check_whole("seed", self.seed, 0, SEED_MAX, optional=True)

    def _check_penalties(self) -> None:
        check_number(
            "repetition_penalty",
            self.repetition_penalty,
            0.0,
            REPETITION_PENALTY_MAX,
            optional=True,
            low_excluded=True,
        )
        for name in ("frequency_penalty", "presence_penalty"):
            check_number(name, getattr(self, name), -OCCURRENCE_PENALTY_MAX, OCCURRENCE_PENALTY_MAX)
        check_number("dry_multiplier", self.dry_multiplier, 0.0, DRY_MULTIPLIER_MAX)
        check_number("dry_base", self.dry_base, 1.0, DRY_BASE_MAX)
        check_whole("dry_allowed_length", self.dry_allowed_length, 1, DRY_ALLOWED_LENGTH_MAX)
        check_texts(
            "dry_breakers", self.dry_breakers, most=STOP_MAX_COUNT, longest=DRY_BREAKER_MAX_LENGTH
        )
        object.__setattr__(self, "dry_breakers", tuple(self.dry_breakers))
        _check_logit_bias(self.logit_bias)
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    def _check_beams(self) -> None:
        check_whole("beams", self.beams, 1, BEAMS_MAX)
        check_whole("beam_groups", self.beam_groups, 1, BEAMS_MAX)
        check_number("diversity_penalty", self.diversity_penalty, 0.0, DIVERSITY_PENALTY_MAX)
        check_number("length_penalty", self.length_penalty, -LENGTH_PENALTY_MAX, LENGTH_PENALTY_MAX)
        if self.beams % self.beam_groups:
            raise OptionsError(
                f"beam_groups is {self.beam_groups}; accepted: a divisor of beams, which is"
                f" {self.beams}"
            )
        if (self.diversity_penalty > 0.0) != (self.beam_groups > 1):
            raise OptionsError(
                f"diversity_penalty is {self.diversity_penalty!r} with {self.beam_groups} beam"
                " groups; accepted: above 0 with 2 groups or more, where equal groups would find"
                " the same, and 0 with one"
            )
        if self.beams == 1:
            if self.length_penalty != 1.0:
                raise OptionsError(
                    f"length_penalty is {self.length_penalty!r} without beams, which it would"
                    " rank; accepted: 1, or beams of 2 and more"
                )
            return
        sampling = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": 0.0 if self.top_p == 1.0 else self.top_p,
            "min_p": self.min_p,
            "typical_p": 0.0 if self.typical_p == 1.0 else self.typical_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": self.logit_bias,
            "dry_multiplier": self.dry_multiplier,
            "logprobs": self.logprobs is not None,
        }
        for name, value in sampling.items():
            if value:
                raise OptionsError(
                    f"{name} is {getattr(self, name)!r} with {self.beams} beams, which sample"
                    " nothing; accepted: one of both, so leave it out or set beams to 1"
                )

    def numbered(self, index: int) -> GenerationOptions:
        """Return the options of the answer ``index`` of several: each has a seed of its own.

        The first of them, 0, has these options' own seed.
        """
        seed = None if self.seed is None else (self.seed + index) % (SEED_MAX + 1)
        return replace(self, seed=seed)

    def sampling(self, defaults: SamplingDefaults) -> SamplingSettings:
        """Settle every setting: the caller's value, else the bundle's, else the neutral one."""
        return SamplingSettings(
            temperature=_first(self.temperature, defaults.temperature, 0.0),
            top_k=_first(self.top_k, defaults.top_k, 0),
            top_p=_first(self.top_p, defaults.top_p, 1.0),
            min_p=_first(self.min_p, defaults.min_p, 0.0),
            repetition_penalty=_first(self.repetition_penalty, defaults.repetition_penalty, 1.0),
            seed=self.seed,
            typical_p=self.typical_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
            dry_multiplier=self.dry_multiplier,
            dry_base=self.dry_base,
            dry_allowed_length=self.dry_allowed_length,
            dry_breakers=self.dry_breakers,
        )


def _first(given: Number | None, advised: Number | None, neutral: Number) -> Number:
    if given is not None:
        return given
    return neutral if advised is None else advised


def _check_logit_bias(bias: object) -> None:
    accepted = (
        f"accepted: up to {LOGIT_BIAS_MAX_COUNT} token ids, each with a number from"
        f" {-LOGIT_BIAS_MAX:g} to {LOGIT_BIAS_MAX:g}, such as {{42: -1.5}}"
    )
    if not isinstance(bias, Mapping):
        raise OptionsError(f"logit_bias is {bias!r:.80}; {accepted}")
    if len(bias) > LOGIT_BIAS_MAX_COUNT:
        raise OptionsError(f"logit_bias has {len(bias)} tokens; {accepted}")
    for token, value in bias.items():
        is_token = isinstance(token, int) and is_number(token, 0, TOKEN_ID_MAX)
        if not is_token or not is_number(value, -LOGIT_BIAS_MAX, LOGIT_BIAS_MAX):
            raise OptionsError(f"logit_bias has {value!r:.40} for {token!r:.40}; {accepted}")
