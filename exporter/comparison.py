"""How far the results of an exported graph are from the reference's, and how far they may be.

Two kinds of results are compared: logits, from which one of many is chosen (a word, a label), by
the distribution that they stand for; and vectors, whose direction is what counts (the embedding of
a text, the scores of several), by the cosine of the angle between them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError

FLOAT32_TOLERANCE = 1e-4  # largest difference of a result, relative to the largest one over 1


class VerificationError(EdgewiseError):
    """An exported graph is too far from the reference to be published."""


@dataclass(frozen=True)
class Gate:
    """The least that an export of some precision must reach, as far as its results are of a kind.

    Attributes:
        top1_agreement: Share of positions whose most probable choice is the reference's.
        mean_divergence: Mean KL divergence from the reference, nats a position.
        largest_difference: Of a result, relative to the largest one over 1; None if not asked.
        smallest_cosine: Between a vector and the reference's.
    """

    top1_agreement: float
    mean_divergence: float
    largest_difference: float | None = None
    smallest_cosine: float = -1.0


# By the fewest bits of any matrix. Set beside what the real SmolLM2-135M-Instruct and
# all-MiniLM-L6-v2 reach (docs/quantization.md): far enough below it for another model, well above
# a broken graph, whose agreement is near zero and whose divergence is several nats.
GATES = {
    32: Gate(1.0 - 1e-9, 1e-6, FLOAT32_TOLERANCE, 1.0 - 1e-5),
    16: Gate(0.95, 0.005, None, 0.999),
    8: Gate(0.85, 0.08, None, 0.98),
    4: Gate(0.65, 0.6, None, 0.9),
}
_NEXT_RECIPE = {GATES[4]: "int8", GATES[8]: "fp16", GATES[16]: "fp32"}


@dataclass(frozen=True)
class Verification:
    """The figures of one comparison; they are stored in the bundle's manifest."""

    positions: int  # tokens or texts that were compared
    top1_agreement: float | None  # None: nothing is chosen
    mean_divergence: float | None  # nats a position; None: nothing is chosen
    largest_difference: float  # of a logit, or of a vector's element
    largest_logit: float  # the reference's largest result, logit or element of a vector
    gate: Gate
    passed: bool
    smallest_cosine: float | None = None  # None: no vectors

    def as_manifest(self) -> dict[str, object]:
        """Return the figures as plain JSON values."""
        return asdict(self)


class Comparison:
    """Adds up how far results are from the reference, one position at a time."""

    def __init__(self) -> None:
        """Begin with no position."""
        self._choices = 0
        self._agreeing = 0
        self._divergence = 0.0
        self._vectors = 0
        self._smallest_cosine = 1.0
        self._largest_difference = 0.0
        self._largest_result = 0.0
        self._finite = True

    def add(
        self, expected: NDArray[np.float32], actual: NDArray[np.float32], *, tie: float = 0.0
    ) -> None:
        """Compare the logits of one position.

        Args:
            expected: float32 [choices], the reference's logits.
            actual: float32 [choices], the exported graph's.
            tie: How far below the highest of the reference's logits another is as good a choice.
        """
        self._choices += 1
        if not self._are_finite(expected, actual):
            return
        self._agreeing += int(expected[actual.argmax()] >= expected.max() - tie)
        log_expected, log_actual = _log_softmax(expected), _log_softmax(actual)
        self._divergence += float(np.sum(np.exp(log_expected) * (log_expected - log_actual)))

    def add_vector(self, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> None:
        """Compare a vector.

        Args:
            expected: float32 [features], the reference's.
            actual: float32 [features], the exported graph's.
        """
        self._vectors += 1
        if self._are_finite(expected, actual):
            self._smallest_cosine = min(self._smallest_cosine, _cosine(expected, actual))

    def result(self, gate: Gate) -> Verification:
        """Return the figures of all positions and whether they pass the gate.

        Results that are not finite never pass; their figures stand for "as bad as can be".
        """
        agreement = divergence = cosine = None
        if self._choices:
            agreement = self._agreeing / self._choices if self._finite else 0.0
            mean = max(0.0, self._divergence / self._choices)
            divergence = mean if self._finite else float(np.finfo(np.float32).max)
        if self._vectors:
            cosine = self._smallest_cosine if self._finite else -1.0
        within = gate.largest_difference is None or self._largest_difference <= (
            gate.largest_difference * max(1.0, self._largest_result)
        )
        passed = (
            self._finite
            and within
            and (agreement is None or agreement >= gate.top1_agreement)
            and (divergence is None or divergence <= gate.mean_divergence)
            and (cosine is None or cosine >= gate.smallest_cosine)
        )
        return Verification(
            positions=max(self._choices, self._vectors),
            top1_agreement=agreement,
            mean_divergence=divergence,
            largest_difference=self._largest_difference,
            largest_logit=self._largest_result,
            gate=gate,
            passed=passed,
            smallest_cosine=cosine,
        )

    def _are_finite(self, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> bool:
        """Tell whether results can be compared; if so, widen the largest figures."""
        if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
            self._finite = False
            return False
        self._largest_result = max(self._largest_result, float(np.abs(expected).max()))
        self._largest_difference = max(
            self._largest_difference, float(np.abs(expected - actual).max())
        )
        return True


def failure(verification: Verification, recipe: str) -> VerificationError:
    """Make the error that says by how much an export missed its gate and what helps."""
    gate = verification.gate
    if gate in _NEXT_RECIPE:
        advice = (
            f"Take a recipe of more bits (--recipe {_NEXT_RECIPE[gate]}), or publish it all the "
            "same with --force."
        )
    else:
        advice = (
            "No weight lost anything, so this is a fault of Edgewise or of this runtime on "
            "this machine: please report it with the checkpoint's name."
        )
    figures = []
    if verification.top1_agreement is not None and verification.mean_divergence is not None:
        agreement, divergence = verification.top1_agreement, verification.mean_divergence
        figures += [
            f"top-1 agreement {agreement:.3f} (at least {gate.top1_agreement:.3f})",
            f"mean KL {divergence:.4g} nats (at most {gate.mean_divergence:g})",
        ]
    if verification.smallest_cosine is not None:
        figures.append(
            f"smallest cosine {verification.smallest_cosine:.4f} "
            f"(at least {gate.smallest_cosine:.4f})"
        )
    return VerificationError(
        f"the export with recipe {recipe!r} is too far from the checkpoint and was not published: "
        f"{', '.join(figures)}, largest difference {verification.largest_difference:.2g}. {advice}"
    )


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    logarithms: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return logarithms


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    left_64, right_64 = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    lengths = math.sqrt(float(left_64 @ left_64) * float(right_64 @ right_64))
    if lengths == 0.0:  # two vectors of zeros are the same, one alone has no direction
        return float(not left_64.any() and not right_64.any())
    return float(left_64 @ right_64) / lengths
