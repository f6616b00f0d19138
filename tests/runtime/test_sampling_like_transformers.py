"""Every filter and penalty that transformers has too, against what its processors leave.

Stored by tests/oracle/write_sampling.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from edgewise.runtime.options import SamplingSettings
from edgewise.runtime.penalties import Penalties
from edgewise.runtime.sampling import filtered_weights

STORED = json.loads((Path(__file__).parents[1] / "data" / "sampling.json").read_text())
FILTERS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


def logits_of(case):
    values = np.random.default_rng(case["seed"]).standard_normal(STORED["vocabulary"])
    return (np.round(values * case["scale"] * 64) / 64).astype(np.float32)


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda case: str(case["seed"]))
def test_the_same_tokens_are_left_with_the_same_probabilities(case):
    settings = SamplingSettings(
        **{name: case[name] for name in FILTERS},
        logit_bias={int(token): value for token, value in case["logit_bias"].items()},
    )
    penalties = Penalties(settings, case["prompt"], sampled_vocabulary=None, bytes_of=None)
    ids, weights = filtered_weights(penalties.apply(logits_of(case)), settings)
    order = np.argsort(ids)
    assert ids[order].tolist() == case["ids"]
    probabilities = (weights / weights.sum())[order]
    assert probabilities == pytest.approx(np.array(case["probabilities"]), rel=1e-5, abs=1e-7)
