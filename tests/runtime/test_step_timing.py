"""Timing of steps: which steps are made, and that end tokens do not end a measurement."""

from __future__ import annotations

import pytest

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.step_timing import (
    decode_seconds,
    load_for_timing,
    prefill_seconds,
    text_decode_rate,
)


@pytest.fixture
def timed(tmp_path):
    loaded = load_for_timing(write_fake_bundle(tmp_path / "bundle"), threads=3)
    with loaded.model:
        yield loaded


def test_the_engine_is_the_one_inside_the_model(timed):
    assert isinstance(timed.backend, FakeBackend)
    assert timed.threads == 3
    before = timed.backend.steps
    timed.model.generate("Hi")
    assert timed.backend.steps > before
    timed.model.close()
    assert timed.backend.closed


def test_a_prompt_is_read_in_chunks_behind_what_is_there(timed):
    ids = [int(number) for number in range(10, 40)]
    assert prefill_seconds(timed.backend, ids, chunk=7) > 0
    assert timed.backend.steps == 5
    assert prefill_seconds(timed.backend, ids[:5], past=30) > 0
    # The cache now holds both: a step behind them is no error, one further on is.
    decode_seconds(timed.backend, [9], past=35)
    with pytest.raises(ValueError, match="has a past of 36 tokens"):
        decode_seconds(timed.backend, [9], past=37)


def test_decoding_is_one_step_a_token(timed):
    prefill_seconds(timed.backend, [5])
    before = timed.backend.steps
    assert decode_seconds(timed.backend, [6, 7, 8], past=1) > 0
    assert timed.backend.steps == before + 3


def test_an_end_token_does_not_end_a_measurement(tmp_path):
    loaded = load_for_timing(write_fake_bundle(tmp_path / "b", reply="Hi"))
    prompt = loaded.model.tokenizer.encode("<|user|>x<|end|><|assistant|>")
    with loaded.model:
        assert len(loaded.model.generate("x").token_ids) == 3  # two bytes and the end
        before = loaded.backend.steps
        assert text_decode_rate(loaded, prompt, new_tokens=20) > 0
        assert loaded.backend.steps == before + 1 + 20
