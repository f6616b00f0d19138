import json

import numpy as np
import pytest

from edgewise.runtime.backends.fake import FakeBackend, FakeGraph
from edgewise.runtime.backends.protocol import Backend, BackendError
from edgewise.runtime.bundle import Bundle


def step(backend, slot, tokens, past, counts=None):
    return backend.step(
        slot,
        np.array(tokens, np.int64),
        np.array(past, np.int32),
        None if counts is None else np.array(counts, np.int32),
    )


def make(**values) -> Backend:
    return FakeBackend(**({"vocabulary_size": 50, "slots": 3, "capacity": 16} | values))


def test_chunks_and_single_tokens_give_what_one_pass_gives():
    backend = make()
    whole = step(backend, 0, [[5, 6, 7, 8, 9]], [0])
    step(backend, 1, [[5, 6]], [0])
    step(backend, 1, [[7, 8]], [2])
    assert np.array_equal(step(backend, 1, [[9]], [4]), whole)
    assert whole.shape == (1, 50)
    assert whole.dtype == np.float32
    assert np.abs(whole).max() <= 8
    assert len(np.unique(whole)) == 50


def test_every_token_of_the_history_matters():
    rows = [
        step(make(), 0, [history], [0])
        for history in ([1, 2, 3], [1, 2, 2], [2, 2, 3], [1, 3, 2], [0, 1, 2, 3], [2, 3])
    ]
    for index, row in enumerate(rows):
        assert all(not np.array_equal(row, other) for other in rows[index + 1 :])
    assert not np.array_equal(rows[0], step(make(graph=FakeGraph(seed=1)), 0, [[1, 2, 3]], [0]))


def test_a_smaller_past_overwrites():
    backend = make()
    step(backend, 0, [[1, 2, 3]], [0])
    assert np.array_equal(step(backend, 0, [[9]], [1]), step(make(), 0, [[1, 9]], [0]))
    with pytest.raises(ValueError, match="has a past of 2 tokens, not 3"):
        step(backend, 0, [[4]], [3])


def test_rows_and_padding():
    backend = make()
    batch = step(backend, 1, [[1, 2, 3], [4, 49, 49]], [0, 0], [3, 1])
    assert np.array_equal(batch[0], step(make(), 0, [[1, 2, 3]], [0])[0])
    assert np.array_equal(batch[1], step(make(), 0, [[4]], [0])[0])
    batch = step(backend, 1, [[7], [8]], [3, 1])
    assert np.array_equal(batch[1], step(make(), 0, [[4, 8]], [0])[0])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((3, [[1]], [0]), "1 rows from slot 3 of 3"),
        ((2, [[1], [1]], [0, 0]), "2 rows from slot 2 of 3"),
        ((0, [[1]], [1]), "has a past of 0 tokens"),
        ((0, [[1]], [-1]), "has a past of 0 tokens"),
        ((0, [[1] * 17], [0]), r"0 \+ 17 tokens"),
        ((0, [[50]], [0]), "outside the vocabulary"),
        ((0, [[-1]], [0]), "outside the vocabulary"),
        ((0, [[1, 2]], [0], [3]), "3 of 2 tokens"),
        ((0, [[1, 2]], [0], [0]), "0 of 2 tokens"),
        ((0, [[1]], [0, 0]), "one entry a row"),
    ],
)
def test_what_an_engine_leaves_undefined_is_an_error(arguments, match):
    with pytest.raises(ValueError, match=match):
        step(make(), *arguments)


def test_closed():
    backend = make()
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        step(backend, 0, [[1]], [0])


def test_reply_follows_its_mark():
    backend = make(graph=FakeGraph(reply=(7, 8, 2), reply_after=40))
    history = [1, 40, 3, 40]
    for expected in (7, 8, 2):
        logits = step(backend, 0, [history], [0])[0]
        assert logits.argmax() == expected
        assert logits.max() == 100.0
        history.append(expected)
    assert step(backend, 0, [history], [0]).max() <= 8


def test_opens_a_fake_graph(tmp_path, manifest_maker):
    bundle = Bundle(tmp_path, manifest_maker(runtime="fake"))
    graph = {"seed": 3, "reply": [1], "reply_after": None, "step_seconds": 0}
    (tmp_path / "model.onnx").write_text(json.dumps(graph))
    backend = FakeBackend.open(bundle, capacity=9)
    assert (backend.capacity, backend.slots, backend.vocabulary_size) == (9, 1, 100)
    expected = FakeBackend(vocabulary_size=100, graph=FakeGraph(seed=3)).logits_after([5])
    assert np.array_equal(step(backend, 0, [[5]], [0])[0], expected)
    (tmp_path / "model.onnx").write_text("{}")
    with pytest.raises(BackendError, match=r"graph\.seed is missing"):
        FakeBackend.open(bundle, capacity=9)
    (tmp_path / "model.onnx").write_text("graph")
    with pytest.raises(BackendError, match="is not usable"):
        FakeBackend.open(bundle, capacity=9)
