"""Filter logits with transformers' processors, and store or compare what is left.

Runs in an environment of its own (torch and transformers are no dependency of Edgewise):

    python tests/oracle/write_sampling.py           # write tests/data/sampling.json
    python tests/oracle/write_sampling.py --check   # compare what is stored with a live run

The logits are multiples of 1/64, so that float32 holds them exactly, and come from a seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoint import DATA

PATH = DATA / "sampling.json"
TOLERANCE = 1e-5
VOCABULARY = 200
CHOICES = {
    "scale": (0.5, 2.0, 6.0),
    "temperature": (0.4, 1.0, 1.8),
    "top_k": (0, 1, 7, 50),
    "top_p": (1.0, 0.95, 0.6),
    "min_p": (0.0, 0.02, 0.3),
    "typical_p": (1.0, 0.9, 0.4),
    "repetition_penalty": (1.0, 1.3, 0.7),
}


def cases() -> list[dict[str, object]]:
    """Return each setting alone, then mixtures of all."""
    random = np.random.default_rng(20)
    neutral = {name: values[0] for name, values in CHOICES.items()} | {"temperature": 1.0}
    alone = [
        neutral | {"scale": scale, name: value}
        for name, scale in itertools.product(list(CHOICES)[1:], (0.5, 2.0, 6.0))
        for value in CHOICES[name][1:]
    ]
    mixed = [
        {name: values[random.integers(len(values))] for name, values in CHOICES.items()}
        for _ in range(80)
    ]
    for number, case in enumerate([*alone, *mixed]):
        case["seed"] = number
        case["prompt"] = random.integers(0, VOCABULARY, random.integers(0, 40)).tolist()
        biased = random.choice(VOCABULARY, random.integers(0, 5), replace=False).tolist()
        case["logit_bias"] = {str(token): float(random.integers(-8, 9)) for token in biased}
    return [*alone, *mixed]


def logits_of(case: dict[str, object]) -> np.ndarray:
    values = np.random.default_rng(case["seed"]).standard_normal(VOCABULARY) * case["scale"]
    return (np.round(values * 64) / 64).astype(np.float32)


def left(case: dict[str, object]) -> dict[str, object]:
    """Return the ids that are left and their probabilities, as ``generate`` has them."""
    processors = []
    if case["logit_bias"]:
        bias = {(int(token),): value for token, value in case["logit_bias"].items()}
        processors.append(SequenceBiasLogitsProcessor(bias))
    if case["repetition_penalty"] != 1.0 and case["prompt"]:
        processors.append(RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]))
    if case["temperature"] != 1.0:
        processors.append(TemperatureLogitsWarper(case["temperature"]))
    if case["top_k"]:
        processors.append(TopKLogitsWarper(case["top_k"]))
    if case["top_p"] < 1.0:
        processors.append(TopPLogitsWarper(case["top_p"]))
    if case["min_p"] > 0.0:
        processors.append(MinPLogitsWarper(case["min_p"]))
    if case["typical_p"] < 1.0:
        processors.append(TypicalLogitsWarper(case["typical_p"]))
    ids = torch.tensor([case["prompt"]], dtype=torch.long)
    scores = torch.tensor(logits_of(case))[None].double()
    for processor in processors:
        scores = processor(ids, scores)
    probabilities = torch.softmax(scores, dim=-1)[0]
    kept = torch.nonzero(torch.isfinite(scores[0]))[:, 0]
    return {
        "ids": kept.tolist(),
        "probabilities": [float(f"{value:.9g}") for value in probabilities[kept].tolist()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    live = [case | left(case) for case in cases()]
    if not parser.parse_args().check:
        lines = ",\n".join(json.dumps(one) for one in live)
        PATH.write_text(f'{{"vocabulary": {VOCABULARY}, "cases": [\n{lines}\n]}}\n')
        print(f"{len(live)} cases written")
        return 0
    worst = 0.0
    for one, other in zip(live, json.loads(PATH.read_text())["cases"], strict=True):
        if one["ids"] != other["ids"]:
            print(f"other tokens are left of {other}")
            worst = np.inf
        else:
            worst = max(
                worst, np.abs(np.subtract(*(x["probabilities"] for x in (one, other)))).max()
            )
    print(f"largest difference of a probability {worst:.2g}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
