"""Scores after the rules, against what transformers' logits processors do."""

import numpy as np
import pytest

from edgewise.runtime.token_rules import TokenRules

SCORES = [[-1.0, -2.0, -3.0, -4.0, -5.0], [-5.0, -4.0, -3.0, -2.0, -1.0]]
NEVER = -np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rules", "position", "is_last", "expected"),
    [
        ({}, 0, True, SCORES[0]),
        ({"sampled": 3}, 5, False, [-1, -2, -3, NEVER, NEVER]),
        ({"least": 2}, 1, False, [-1, NEVER, -3, -4, NEVER]),
        ({"least": 2}, 2, False, SCORES[0]),
        ({"forced_first": 3}, 0, False, [NEVER, NEVER, NEVER, 0, NEVER]),
        ({"forced_first": 3}, 1, False, SCORES[0]),
        ({"forced_last": 4}, 7, True, [NEVER, NEVER, NEVER, NEVER, 0]),
        ({"forced_last": 4}, 7, False, SCORES[0]),
        ({"forced_first": 3, "forced_last": 4}, 0, True, [NEVER, NEVER, NEVER, NEVER, 0]),
        ({"forced_last": 4, "least": 9, "sampled": 2}, 3, True, [NEVER] * 4 + [0]),
        ({"least": 9, "sampled": 4}, 3, True, [-1, NEVER, -3, -4, NEVER]),
    ],
)
def test_scores(dtype, rules, position, is_last, expected):
    scores = np.asarray(SCORES, dtype)
    TokenRules(end=(1, 4), **rules).restrict(scores, position, is_last=is_last)
    assert scores[0].tolist() == expected
    assert scores.dtype == dtype
    assert ((scores[0] == NEVER) == (scores[1] == NEVER)).all()
