"""How to generate: what a caller may ask for, checked before anything runs.

Rules: None means "as the bundle advises" (its generation_config), and where that advises nothing,
greedy decoding with every filter off. Several beams are searched without sampling, so what is asked
for at sampling is refused beside them and what the bundle advises for it is left out; the
repetition penalty holds for both. Values come from the network too, so a wrong one is an
`OptionsError` that names the value and what is accepted, never a NaN in the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.output_format import OutputFormat

Number = TypeVar("Number", int, float)

TEMPERATURE_MAX = 100.0
REPETITION_PENALTY_MAX = 100.0
SEED_MAX = 2**64 - 1
STOP_MAX_COUNT = 32  # strings
STOP_MAX_LENGTH = 1024  # characters
BEAMS_MAX = 64
DIVERSITY_PENALTY_MAX = 100.0
LENGTH_PENALTY_MAX = 10.0  # and its negative


class OptionsError(EdgewiseError):
    """A generation option that is outside what is accepted."""


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


@dataclass(frozen=True)
class GenerationOptions:
    """What to generate, and how. Raises `OptionsError` when a value is outside what is accepted."""

    max_tokens: int = 256  # at least 1
    temperature: float | None = None  # 0 (greedy) to TEMPERATURE_MAX
    top_k: int | None = None  # tokens; 0: all
    top_p: float | None = None  # above 0, up to 1 (off)
    min_p: float | None = None  # 0 (off) to 1
    repetition_penalty: float | None = None  # above 0; 1: off, over 1: repeat less
    seed: int | None = None  # 0 to SEED_MAX; None: another result each time
    stop: tuple[str, ...] = ()  # texts that end the answer and are not part of it
    raw: bool = False  # True: the prompt is continued as it is, without the chat template
    beams: int = 1  # 1 to BEAMS_MAX; over 1: beam search, which samples nothing
    beam_groups: int = 1  # divides beams; over 1: groups that avoid each other's tokens
    diversity_penalty: float = 0.0  # taken from a log-probability for each use by earlier groups
    length_penalty: float = 1.0  # beams are ranked by log-probability / tokens ** length_penalty
    output_format: OutputFormat | None = None  # what the answer must look like

    def __post_init__(self) -> None:
        _check_whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _check_number("temperature", self.temperature, 0.0, TEMPERATURE_MAX)
        _check_whole("top_k", self.top_k, 0, 2**31 - 1)
        _check_number("top_p", self.top_p, 0.0, 1.0, low_excluded=True)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number(
            "repetition_penalty",
            self.repetition_penalty,
            0.0,
            REPETITION_PENALTY_MAX,
            low_excluded=True,
        )
        _check_whole("seed", self.seed, 0, SEED_MAX)
        if not isinstance(self.raw, bool):
            raise OptionsError(f"raw is {self.raw!r}; accepted: True or False")
        _check_stop(self.stop)
        object.__setattr__(self, "stop", tuple(self.stop))
        if self.output_format is not None and self.beams > 1:
            raise OptionsError("an output format goes with one beam; leave beams out")
        self._check_beams()

    def _check_beams(self) -> None:
        _check_whole("beams", self.beams, 1, BEAMS_MAX)
        _check_whole("beam_groups", self.beam_groups, 1, BEAMS_MAX)
        _check_number("diversity_penalty", self.diversity_penalty, 0.0, DIVERSITY_PENALTY_MAX)
        _check_number(
            "length_penalty", self.length_penalty, -LENGTH_PENALTY_MAX, LENGTH_PENALTY_MAX
        )
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
        }
        for name, value in sampling.items():
            if value:
                raise OptionsError(
                    f"{name} is {getattr(self, name)!r} with {self.beams} beams, which sample"
                    " nothing; accepted: one of both, so leave it out or set beams to 1"
                )

    def sampling(self, defaults: SamplingDefaults) -> SamplingSettings:
        """Settle every setting: the caller's value, else the bundle's, else the neutral one."""
        return SamplingSettings(
            temperature=_first(self.temperature, defaults.temperature, 0.0),
            top_k=_first(self.top_k, defaults.top_k, 0),
            top_p=_first(self.top_p, defaults.top_p, 1.0),
            min_p=_first(self.min_p, defaults.min_p, 0.0),
            repetition_penalty=_first(self.repetition_penalty, defaults.repetition_penalty, 1.0),
            seed=self.seed,
        )


def _first(given: Number | None, advised: Number | None, neutral: Number) -> Number:
    if given is not None:
        return given
    return neutral if advised is None else advised


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if value is None and name not in ("max_tokens", "beams", "beam_groups"):
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OptionsError(f"{name} is {value!r}; accepted: a whole number from {low} to {high}")


def _check_number(
    name: str, value: object, low: float, high: float, *, low_excluded: bool = False
) -> None:
    if value is None and name not in ("diversity_penalty", "length_penalty"):
        return
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and low <= value <= high  # false for NaN
        and not (low_excluded and value == low)
    )
    if not fits:
        start = f"above {low:g}" if low_excluded else f"from {low:g}"
        raise OptionsError(f"{name} is {value!r}; accepted: a number {start} up to {high:g}")


def _check_stop(stop: object) -> None:
    if not isinstance(stop, tuple | list):
        raise OptionsError(f"stop is {stop!r}; accepted: a list of texts, such as ['END']")
    if len(stop) > STOP_MAX_COUNT:
        raise OptionsError(f"stop has {len(stop)} texts; accepted: up to {STOP_MAX_COUNT}")
    for text in stop:
        if not isinstance(text, str) or not 1 <= len(text) <= STOP_MAX_LENGTH:
            raise OptionsError(
                f"stop holds {text!r:.80}; accepted: texts of 1 to {STOP_MAX_LENGTH} characters"
            )
