"""Holds an exported graph against the numpy reference before it is published.

Workflow: a few texts are encoded; the reference computes the logits of their second halves in one
pass over the checkpoint's own weights; the exported graph takes the first half as a prompt and the
rest token by token through its cache, as a device will. What is compared is therefore prefill,
cached decode and quantization at once.

Rules: the reference never sees a quantized weight; a gate is a measured figure, kept with the
recipe's precision, and what fails it is not published unless the user insists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.plan import ExportPlan
from edgewise.runtime.backends.protocol import Backend

TEXTS = (
    """The meter in the greenhouse reads twenty-three degrees, and the vents on the south side \
have been open since noon. If the wind turns before evening, close them and send a short report to \
the gardener, who will decide whether the heating has to run during the night.""",
    """Question: A train leaves the station at 9:15 and arrives at 11:45. How long does it take?
Answer: From 9:15 to 11:15 are two hours, and from 11:15 to 11:45 are another thirty minutes, so \
the journey takes two hours and thirty minutes in all.""",
    """def average(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)

print(average([1, 2, 3, 4]))  # prints 2.5, the arithmetic mean of the list""",
    """Water is a substance made of hydrogen and oxygen. It covers most of the surface of \
the earth, falls from the clouds as rain and snow, and is needed by every plant and animal that is \
known to us. In its solid form it is called ice, and it floats on the liquid.""",
)
MOST_TOKENS = 48  # a text, prompt and answer half together
FLOAT32_TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit over 1


class VerificationError(EdgewiseError):
    """An exported graph is too far from the reference to be published."""


@dataclass(frozen=True)
class Gate:
    """The least that an export of some precision must reach.

    Attributes:
        top1_agreement: Share of positions whose most probable token is the reference's.
        mean_divergence: Mean KL divergence from the reference, nats a token.
        largest_difference: Of a logit, relative to the largest logit over 1; None if not asked.
    """

    top1_agreement: float
    mean_divergence: float
    largest_difference: float | None = None


# By the fewest bits of any matrix. Set beside what the real SmolLM2-135M-Instruct reaches
# (docs/quantization.md): far enough below it for another model, well above a broken graph, whose
# agreement is near zero and whose divergence is several nats.
GATES = {
    32: Gate(1.0 - 1e-9, 1e-6, FLOAT32_TOLERANCE),
    16: Gate(0.95, 0.005),
    8: Gate(0.85, 0.08),
    4: Gate(0.65, 0.6),
}


_NEXT_RECIPE = {GATES[4]: "int8", GATES[8]: "fp16", GATES[16]: "fp32"}


@dataclass(frozen=True)
class Verification:
    """The figures of one comparison; they are stored in the bundle's manifest."""

    positions: int
    top1_agreement: float
    mean_divergence: float  # nats a token
    largest_difference: float  # of a logit
    largest_logit: float
    gate: Gate
    passed: bool

    def as_manifest(self) -> dict[str, object]:
        """Return the figures as plain JSON values."""
        return asdict(self)


def verify(checkpoint: Checkpoint, plan: ExportPlan, backend: Backend) -> Verification:
    """Compare an exported graph with the reference.

    Args:
        checkpoint: Where the reference takes its weights.
        plan: What was exported.
        backend: The exported graph, loaded; its capacity limits how long the texts are.

    Returns:
        The figures, whether they pass the gate or not.
    """
    token_ids = verification_ids(
        checkpoint, plan.configuration.vocabulary_size, min(MOST_TOKENS, backend.capacity)
    )
    prompt_length = max(1, token_ids.shape[1] // 2)
    reference = NumpyBuilder(token_ids, last_positions=token_ids.shape[1] - prompt_length + 1)
    plan.forward(reference, checkpoint)
    comparison = Comparison()
    for ids, expected in zip(token_ids, reference.logits, strict=True):
        for expected_row, actual_row in zip(
            expected, _logits_of(backend, ids, prompt_length), strict=True
        ):
            comparison.add(expected_row, actual_row)
    return comparison.result(GATES[plan.gate_bits])


def verification_ids(
    checkpoint: Checkpoint, vocabulary_size: int, most_tokens: int = MOST_TOKENS
) -> NDArray[np.int64]:
    """Encode the texts and cut them to one length: int64 [texts, at most most_tokens]."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - heavy, and only an export needs it here

    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)
    encoded = [tokenizer.encode(text).ids for text in TEXTS]
    length = min(most_tokens, max(2, min(len(ids) for ids in encoded)))
    # A tokenizer that knows almost nothing of the texts still has ids to compare.
    rows = [(ids * length)[:length] if ids else list(range(length)) for ids in encoded]
    return np.asarray(rows, np.int64) % vocabulary_size


class Comparison:
    """Adds up how far logits are from the reference, one position at a time."""

    def __init__(self) -> None:
        """Begin with no position."""
        self._positions = 0
        self._agreeing = 0
        self._divergence = 0.0
        self._largest_difference = 0.0
        self._largest_logit = 0.0
        self._finite = True

    def add(self, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> None:
        """Compare one position.

        Args:
            expected: float32 [vocabulary], the reference's logits.
            actual: float32 [vocabulary], the exported graph's.
        """
        self._positions += 1
        if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
            self._finite = False
            return
        self._largest_logit = max(self._largest_logit, float(np.abs(expected).max()))
        self._agreeing += int(expected.argmax() == actual.argmax())
        self._largest_difference = max(
            self._largest_difference, float(np.abs(expected - actual).max())
        )
        log_expected, log_actual = _log_softmax(expected), _log_softmax(actual)
        self._divergence += float(np.sum(np.exp(log_expected) * (log_expected - log_actual)))

    def result(self, gate: Gate) -> Verification:
        """Return the figures of all positions and whether they pass the gate.

        Logits that are not finite never pass; their figures stand for "as bad as can be".
        """
        agreement = self._agreeing / self._positions
        divergence = max(0.0, self._divergence / self._positions)
        if not self._finite:
            agreement, divergence = 0.0, float(np.finfo(np.float32).max)
        passed = (
            self._finite
            and agreement >= gate.top1_agreement
            and divergence <= gate.mean_divergence
            and (
                gate.largest_difference is None
                or self._largest_difference
                <= gate.largest_difference * max(1.0, self._largest_logit)
            )
        )
        return Verification(
            positions=self._positions,
            top1_agreement=agreement,
            mean_divergence=divergence,
            largest_difference=self._largest_difference,
            largest_logit=self._largest_logit,
            gate=gate,
            passed=passed,
        )


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
            "No weight lost anything, so this is a fault of Edgewise or of this onnxruntime on "
            "this machine: please report it with the checkpoint's name."
        )
    return VerificationError(
        f"the export with recipe {recipe!r} is too far from the checkpoint and was not published: "
        f"top-1 agreement {verification.top1_agreement:.3f} (at least {gate.top1_agreement:.3f}), "
        f"mean KL {verification.mean_divergence:.4g} nats (at most {gate.mean_divergence:g}), "
        f"largest logit difference {verification.largest_difference:.2g}. "
        f"{advice}"
    )


def _logits_of(
    backend: Backend, token_ids: NDArray[np.int64], prompt_length: int
) -> Iterator[NDArray[np.float32]]:
    """Run a prompt and then token by token; yield the logits [vocabulary] after each."""
    past = np.zeros(1, np.int32)
    yield backend.step(0, token_ids[None, :prompt_length], past)[0]
    for position in range(prompt_length, len(token_ids)):
        past[0] = position
        yield backend.step(0, token_ids[None, position : position + 1], past)[0]


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    logarithms: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return logarithms
