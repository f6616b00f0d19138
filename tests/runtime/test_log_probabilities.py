import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.log_probabilities import LogProbabilityRecorder
from edgewise.runtime.sampling import LogitsError


def observed(logits, likeliest=20, **more):
    recorder = LogProbabilityRecorder(likeliest, **more)
    recorder.observe(np.array(logits, np.float32))
    return recorder


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=40),
    st.integers(0, 20),
    st.sampled_from([0.125, 1.0, 64.0]),
)
def test_against_one_token_at_a_time(values, likeliest, scale):
    logits = [value * scale for value in values]
    recorder = observed(logits, likeliest)
    largest = max(logits)
    total = largest + math.log(math.fsum(math.exp(logit - largest) for logit in logits))
    for token, logit in enumerate(logits):
        told = recorder.of(token, logit)
        assert told.token_id == token
        assert told.log_probability == pytest.approx(logit - total, rel=1e-12, abs=1e-12)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:likeliest]
    assert [token for token, _ in told.likeliest] == order
    assert [value for _, value in told.likeliest] == pytest.approx(
        [logits[token] - total for token in order], rel=1e-12, abs=1e-12
    )


def test_equal_logits_share_the_probability():
    told = observed([7.0] * 8, 3).of(5, 7.0)
    assert told.log_probability == pytest.approx(-math.log(8), abs=1e-15)
    assert told.likeliest == tuple((token, told.log_probability) for token in range(3))


def test_padding_rows_have_no_share():
    recorder = observed([1.0, 1.0, 50.0], sampled_vocabulary=2)
    told = recorder.of(0, 1.0)
    assert told.log_probability == pytest.approx(-math.log(2), abs=1e-15)
    assert [token for token, _ in told.likeliest] == [0, 1]


@pytest.mark.filterwarnings("error")
def test_the_impossible_is_not_among_the_likeliest():
    told = observed([-math.inf, 0.0, -math.inf]).of(1, 0.0)
    assert told.log_probability == 0.0
    assert told.likeliest == ((1, 0.0),)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [3e38, -3e38])
def test_extreme_logits_stay_numbers(scale):
    told = observed([scale, 0.0]).of(0, np.float32(scale).item())
    assert told.log_probability == (0.0 if scale > 0 else np.float32(scale).item())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers(bad):
    with pytest.raises(LogitsError, match="largest logit"):
        observed([0.0, bad])
    with pytest.raises(LogitsError, match="-inf"):
        observed([-math.inf] * 2)
