"""Graphs that append to their cache by copying it, against what transformers computes."""

import numpy as np
import pytest
from traced_cases import DECODERS, POSITIONS, VOCABULARY, bundle_of, expected_of, folder_of

from edgewise.runtime.backends.onnx_growing import OnnxGrowingBackend
from edgewise.runtime.backends.protocol import Backend, BackendError

TOLERANCE = 1e-5  # the logits are within 6


@pytest.fixture(scope="module", params=DECODERS)
def case(request):
    bundle = bundle_of(request.param, folder_of(request.param) / "model.onnx")
    backend = OnnxGrowingBackend(bundle, threads=1, slots=3, capacity=POSITIONS)
    expected = expected_of(request.param)
    yield backend, expected["ids"], expected["result"]
    backend.close()


def lengths(*values):
    return np.asarray(values, np.int32)


def assert_near(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < TOLERANCE


def test_it_fulfils_the_protocol(case):
    backend: Backend = case[0]
    assert (backend.slots, backend.capacity, backend.vocabulary_size) == (3, 64, 120)
    assert not backend.rows_share_work


def test_a_prompt_and_then_single_tokens_give_the_logits_of_one_pass(case):
    backend, ids, logits = case
    assert_near(backend.step(0, ids[:, :5], lengths(0, 0)), logits[:, 4])
    for place in range(5, 12):
        one = ids[:, place : place + 1]
        assert_near(backend.step(0, one, lengths(place, place)), logits[:, place])


def test_a_prompt_in_chunks_gives_the_logits_of_one_pass(case):
    backend, ids, logits = case
    for start, end in ((0, 4), (4, 5), (5, 11)):
        actual = backend.step(1, ids[:1, start:end], lengths(start))
        assert_near(actual, logits[:1, end - 1])


def test_rows_have_lengths_of_their_own_and_padding_is_not_seen(case):
    backend, ids, logits = case
    actual = backend.step(0, ids[:, :8], lengths(0, 0), lengths(3, 8))
    assert_near(actual, np.stack([logits[0, 2], logits[1, 7]]))
    padded = np.stack([ids[0, 3:7], np.append(ids[1, 8:10], [0, 0])])
    actual = backend.step(0, padded, lengths(3, 8), lengths(4, 2))
    assert_near(actual, np.stack([logits[0, 6], logits[1, 9]]))


def test_a_slot_is_trimmed_by_a_smaller_past(case):
    backend, ids, logits = case
    backend.step(2, ids[:1], lengths(0))
    assert_near(backend.step(2, ids[:1, 4:6], lengths(4)), logits[:1, 5])


def test_a_copied_prefix_is_the_targets_own(case):
    backend, ids, logits = case
    backend.step(0, ids[:1, :9], lengths(0))
    backend.copy_prefix(0, 1, 6)
    backend.step(0, ids[1:], lengths(0))  # the source goes on with something else
    assert_near(backend.step(1, ids[:1, 6:8], lengths(6)), logits[:1, 7])
    assert_near(backend.step(0, ids[1:, 11:], lengths(11)), logits[1:, 11])


def test_a_cache_that_was_read_goes_on_in_another_slot(case):
    backend, ids, logits = case
    backend.step(0, ids[:1, :9], lengths(0))
    cache = backend.read_cache(0, 6)
    backend.step(0, ids[1:], lengths(0))
    backend.write_cache(1, cache)
    assert_near(backend.step(1, ids[:1, 6:8], lengths(6)), logits[:1, 7])


def test_what_was_released_can_not_be_used_and_the_slot_can(case):
    backend, ids, logits = case
    backend.step(0, ids[:1, :4], lengths(0))
    backend.release(0)
    with pytest.raises(ValueError, match="slot 0 holds 0 tokens, not 4"):
        backend.step(0, ids[:1, 4:5], lengths(4))
    assert_near(backend.step(0, ids[:1, :4], lengths(0)), logits[:1, 3])


def test_a_slot_takes_keys_and_values_of_its_tokens(case):
    backend, ids, _ = case
    backend.step(0, ids[:1, :10], lengths(0))
    kept = backend._kept[0]
    assert backend.slot_bytes(10) == sum(value.numpy().nbytes for value in kept)
    assert backend.slot_bytes(1000) == backend.slot_bytes(POSITIONS)


def test_a_failure_of_the_engine_is_a_backend_error_and_loses_nothing(case, capfd):
    backend, ids, logits = case
    backend.step(0, ids[:1, :4], lengths(0))
    with pytest.raises(BackendError, match="onnxruntime failed while it computed 5 tokens"):
        backend.step(0, np.asarray([[VOCABULARY]]), lengths(4))
    assert_near(backend.step(0, ids[:1, 4:5], lengths(4)), logits[:1, 4])


def test_a_second_close_does_nothing():
    bundle = bundle_of("opt_tied", folder_of("opt_tied") / "model.onnx")
    backend = OnnxGrowingBackend(bundle, threads=1, capacity=8)
    backend.close()
    backend.close()
