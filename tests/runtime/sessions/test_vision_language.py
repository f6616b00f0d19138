import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_vision_language import FakeVisionLanguageBackend
from edgewise.runtime.sessions.vision_language import (
    KEPT_IMAGES,
    ImageCountError,
    SplicingBackend,
    split_at_marks,
)

VOCABULARY, TOKENS = 40, 3


def image(seed):
    return np.random.default_rng(seed).normal(size=(3, 4, 4)).astype(np.float32)


@pytest.fixture
def engine():
    return FakeVisionLanguageBackend(vocabulary_size=VOCABULARY, image_tokens=TOKENS, slots=2)


@pytest.fixture
def splicing(engine):
    return SplicingBackend(engine, TOKENS)


def logits_of(*tokens):
    return FakeBackend(vocabulary_size=VOCABULARY).logits_after(list(tokens))


def step(backend, ids, past=0, slot=0, counts=None):
    pasts = np.full(len(ids), past, np.int32)
    return backend.step(slot, np.asarray(ids), pasts, counts)


@given(st.lists(st.text("ab<> \nimage"), min_size=1, max_size=4))
def test_a_prompt_comes_apart_where_it_was_put_together(texts):
    texts = [text.replace("<image>", "") for text in texts]
    prompt = "<image>".join(texts)
    if prompt.count("<image>") == len(texts) - 1:
        assert "<image>".join(split_at_marks(prompt, "<image>", len(texts) - 1)) == prompt


def test_marks_at_both_ends_leave_empty_texts():
    assert split_at_marks("<image><image>a<image>", "<image>", 3) == ["", "", "a", ""]
    assert split_at_marks("a", "<image>", 0) == ["a"]


def ids_while_held(splicing, *images):
    """Return ids of images that are held no more."""
    with splicing.holding(images) as ids:
        return ids


@pytest.mark.parametrize(("text", "images"), [("a", 1), ("<image>a", 0), ("<image><image>", 1)])
def test_another_number_of_images_is_refused_with_both(text, images):
    message = f"{text.count('<image>')} times in the prompt, and images were given: {images}"
    with pytest.raises(ImageCountError, match=message):
        split_at_marks(text, "<image>", images)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_image_anywhere_in_a_step_is_its_own_vectors(engine, splicing, place):
    (ids,) = ids_while_held(splicing, image(1))
    text = [7, 8, 9, 10]
    prompt = [*text[:place], *ids, *text[place:]]
    expected = [*text[:place], *engine.ids_of(image(1)), *text[place:]]
    assert np.array_equal(step(splicing, [prompt])[0], logits_of(*expected))
    assert engine.seen == 1


@given(cuts=st.lists(st.integers(1, 13), max_size=5))
def test_chunks_that_cut_images_give_what_one_step_gives(cuts):
    engine = FakeVisionLanguageBackend(vocabulary_size=VOCABULARY, image_tokens=TOKENS)
    splicing = SplicingBackend(engine, TOKENS)
    first, second = ids_while_held(splicing, image(1), image(2))
    prompt = [5, *first, 6, 7, *second, *first, 8]
    whole = [5, *engine.ids_of(image(1)), 6, 7, *engine.ids_of(image(2))]
    whole += [*engine.ids_of(image(1)), 8]
    bounds = sorted({0, len(prompt), *(cut for cut in cuts if cut < len(prompt))})
    for start, stop in itertools.pairwise(bounds):
        logits = step(splicing, [prompt[start:stop]], past=start)
    assert np.array_equal(logits[0], logits_of(*whole))
    assert engine.seen == 2


def test_nothing_is_computed_before_a_step_needs_it(engine, splicing):
    ids = ids_while_held(splicing, image(1), image(2))
    step(splicing, [[4, 5]])
    assert engine.seen == 0
    step(splicing, [[*ids[1]]], past=2)
    assert engine.seen == 1


def test_equal_images_are_one(engine, splicing):
    first, other, again = ids_while_held(splicing, image(1), image(2), image(1).copy())
    assert first == again
    assert first != other
    (later,) = ids_while_held(splicing, image(1))
    assert later == first
    step(splicing, [[*first, *again]])
    step(splicing, [[*later]])
    assert engine.seen == 1


def test_ids_are_behind_the_vocabulary_and_never_used_again(splicing):
    used = set()
    for seed in range(3 * KEPT_IMAGES):
        (ids,) = ids_while_held(splicing, image(seed))
        assert len(ids) == TOKENS
        assert min(ids) >= VOCABULARY
        assert not used & {*ids}
        used |= {*ids}


def test_the_last_images_are_kept_and_older_ones_are_forgotten(engine, splicing):
    first = {seed: ids_while_held(splicing, image(seed))[0] for seed in range(KEPT_IMAGES)}
    ids_while_held(splicing, image(0))  # used again, so image 1 is the oldest
    ids_while_held(splicing, image(99))
    assert ids_while_held(splicing, image(0))[0] == first[0]
    with pytest.raises(ValueError, match="not known"):
        step(splicing, [[*first[1]]])
    assert ids_while_held(splicing, image(1))[0] != first[1]


def test_a_prompt_may_have_more_images_than_are_kept(engine, splicing):
    images = [image(seed) for seed in range(KEPT_IMAGES + 2)]
    expected = [token for one in images for token in engine.ids_of(one)]
    with splicing.holding(images) as held:
        prompt = [token for ids in held for token in ids]
        assert np.array_equal(step(splicing, [prompt])[0], logits_of(*expected))
    with pytest.raises(ValueError, match="not known"):
        step(splicing, [[*held[0]]])


def test_images_are_kept_while_any_prompt_has_them(engine, splicing):
    with splicing.holding([image(1)]) as (mine,), splicing.holding([image(1)]):
        for seed in range(2, KEPT_IMAGES + 4):
            ids_while_held(splicing, image(seed))
        assert np.array_equal(step(splicing, [[*mine]])[0], logits_of(*engine.ids_of(image(1))))


def test_rows_may_have_images_in_different_places(engine, splicing):
    (ids,) = ids_while_held(splicing, image(1))
    seen = engine.ids_of(image(1))
    rows = [[*ids, 5, 6], [5, *ids, 0]]
    logits = step(splicing, rows, counts=np.asarray([5, 4], np.int32))
    assert np.array_equal(logits[0], logits_of(*seen, 5, 6))
    assert np.array_equal(logits[1], logits_of(5, *seen))


def test_the_rest_is_the_engine_s_own(engine, splicing):
    assert (splicing.slots, splicing.capacity, splicing.vocabulary_size) == (2, 256, VOCABULARY)
    assert splicing.rows_share_work is engine.rows_share_work
    assert splicing.slot_bytes(9) == engine.slot_bytes(9)
    step(splicing, [[1, 2, 3]])
    splicing.copy_prefix(0, 1, 2)
    assert np.array_equal(step(splicing, [[9]], past=2, slot=1)[0], logits_of(1, 2, 9))
    splicing.release(1)
    with pytest.raises(ValueError, match="past of 0 tokens"):
        step(splicing, [[9]], past=2, slot=1)
    splicing.close()
    assert engine.closed
