import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.backends.fake_bundle import write_fake_sequence_bundle
from edgewise.runtime.loading import load
from edgewise.runtime.log_probabilities import LogProbabilityRecorder
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.output_format import OutputFormat
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


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def told_by_the_history(model, prompt_ids, token_ids):
    """The log-probabilities of each step, from the engine's logits of the whole history."""
    history = list(prompt_ids)
    for token in token_ids:
        yield log_softmax(model._backend.logits_after(history))
        history.append(token)


FORMAT = OutputFormat.json_schema(
    {
        "type": "object",
        "properties": {"temperature": {"type": "integer"}, "place": {"enum": ["cellar", "attic"]}},
        "required": ["temperature", "place"],
    }
)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"temperature": 4.0, "seed": 3, "top_k": 5},
        {"logit_bias": {9: 90.0}, "presence_penalty": 2.0, "repetition_penalty": 1.5},
        {"output_format": FORMAT},
        {"output_format": FORMAT, "temperature": 3.0, "seed": 1, "frequency_penalty": 1.0},
    ],
)
def test_an_answer_tells_what_the_model_itself_thought(fake_bundle, asked):
    options = GenerationOptions(raw=True, max_tokens=60, **asked)
    with load(fake_bundle) as model:
        plain = model.generate("Hello", options)
        told = model.generate("Hello", replace(options, logprobs=4))
        assert told.token_ids == plain.token_ids
        assert told.text == plain.text
        assert plain.log_probabilities == ()
        assert [one.token_id for one in told.log_probabilities] == list(told.token_ids)
        prompt_ids = model.tokenizer.encode("Hello")
        for one, expected in zip(
            told.log_probabilities,
            told_by_the_history(model, prompt_ids, told.token_ids),
            strict=True,
        ):
            assert one.log_probability == pytest.approx(expected[one.token_id], abs=1e-9)
            order = np.argsort(-expected, kind="stable")[:4].tolist()
            assert [token for token, _ in one.likeliest] == order
            assert [value for _, value in one.likeliest] == pytest.approx(expected[order], abs=1e-9)


def test_each_piece_has_those_of_its_tokens(fake_bundle):
    options = GenerationOptions(raw=True, max_tokens=40, logprobs=0, output_format=FORMAT)
    with load(fake_bundle) as model:
        for piece in model.stream("Hello", options):
            assert [one.token_id for one in piece.log_probabilities] == list(piece.token_ids)
            assert all(one.likeliest == () for one in piece.log_probabilities)


def test_an_encoder_decoder_tells_them_too(tmp_path):
    with load(write_fake_sequence_bundle(tmp_path / "b")) as model:
        told = model.generate("x", GenerationOptions(max_tokens=5, logprobs=2))
        assert [one.token_id for one in told.log_probabilities] == list(told.token_ids)
        assert all(one.likeliest[0][0] == one.token_id for one in told.log_probabilities)
        assert all(one.log_probability <= 0.0 for one in told.log_probabilities)
