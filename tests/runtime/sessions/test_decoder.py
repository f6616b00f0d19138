import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import END
from edgewise.runtime.bundle import Bundle, open_bundle
from edgewise.runtime.generation import Piece
from edgewise.runtime.kv_cache import ContextError, NoFreeSlotError, SlotTable
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.sampling import LogitsError
from edgewise.runtime.sessions import answer
from edgewise.runtime.sessions.answer import Step, collect
from edgewise.runtime.sessions.decoder import DecoderSession, generate_step
from edgewise.runtime.tokenizer import Tokenizer

VOCABULARY = 40


def greedy(logits):
    return int(logits.argmax())


def reference(prompt, *, max_tokens, end_ids=(), capacity):
    """Without a cache: the whole history, each time."""
    backend = FakeBackend(vocabulary_size=VOCABULARY)
    history, result = list(prompt), []
    while True:
        token = int(backend.logits_after(history).argmax())
        history.append(token)
        result.append(token)
        if token in end_ids:
            return result, "stop"
        if len(result) == max_tokens or len(history) > capacity:
            return result, "length"


def make(slots=1, capacity=24):
    backend = FakeBackend(vocabulary_size=VOCABULARY, slots=slots, capacity=capacity)
    return backend, SlotTable(slots, capacity)


@settings(max_examples=200, deadline=None)
@given(
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=24),
    max_tokens=st.integers(1, 30),
    chunk=st.integers(1, 30),
    end_ids=st.sets(st.integers(0, VOCABULARY - 1), max_size=4),
)
def test_any_chunks_give_what_the_whole_history_gives(prompt, max_tokens, chunk, end_ids):
    backend, slots = make()
    steps = list(
        generate_step(
            backend,
            slots,
            prompt,
            greedy,
            max_tokens=max_tokens,
            end_ids=end_ids,
            prefill_chunk=chunk,
        )
    )
    chunks = -(-len(prompt) // chunk)
    assert steps[: chunks - 1] == [Step(None, None)] * (chunks - 1)
    tokens = steps[chunks - 1 :]
    expected, reason = reference(prompt, max_tokens=max_tokens, end_ids=end_ids, capacity=24)
    assert [step.token_id for step in tokens] == expected
    assert [step.finished for step in tokens] == [None] * (len(expected) - 1) + [reason]
    assert backend.steps == chunks + len(expected) - 1
    assert slots.free_slots == 1


def test_a_full_context_gives_one_more_token():
    backend, slots = make(capacity=8)
    steps = list(generate_step(backend, slots, range(8), greedy, max_tokens=99))
    assert [step.finished for step in steps] == ["length"]
    steps = list(generate_step(backend, slots, range(6), greedy, max_tokens=99))
    assert [step.finished for step in steps] == [None, None, "length"]


def test_prompt_errors_take_no_slot():
    backend, slots = make(capacity=8)
    with pytest.raises(ContextError, match="has 9 tokens, the context holds 8"):
        next(generate_step(backend, slots, range(9), greedy, max_tokens=1))
    with pytest.raises(ContextError, match="empty"):
        next(generate_step(backend, slots, [], greedy, max_tokens=1))
    assert slots.free_slots == 1
    assert backend.steps == 0


@pytest.mark.parametrize("taken", [1, 2, 3, 5])
def test_closing_cancels_at_a_chunk_or_a_token_and_frees_the_slot(taken):
    backend, slots = make()
    steps = generate_step(backend, slots, range(9), greedy, max_tokens=9, prefill_chunk=3)
    list(itertools.islice(steps, taken))
    assert slots.free_slots == 0
    steps.close()
    assert slots.free_slots == 1
    assert backend.steps == taken


def test_the_slot_is_free_when_the_last_token_is_given_out():
    backend, slots = make()
    steps = generate_step(backend, slots, [1], greedy, max_tokens=2)
    assert next(steps).finished is None
    assert next(steps).finished == "length"
    assert slots.free_slots == 1


def test_a_failing_engine_leaves_the_slot_free():
    backend, slots = make()
    steps = generate_step(backend, slots, [1], greedy, max_tokens=9)
    next(steps)
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        next(steps)
    assert slots.free_slots == 1


def test_generations_in_neighbouring_slots_do_not_touch_each_other():
    backend, slots = make(slots=3)
    prompts = ([1, 2, 3], [4], [9, 9])
    runs = [generate_step(backend, slots, prompt, greedy, max_tokens=6) for prompt in prompts]
    rows = list(zip(*runs, strict=True))
    for index, prompt in enumerate(prompts):
        expected, _ = reference(prompt, max_tokens=6, capacity=24)
        assert [row[index].token_id for row in rows] == expected
    runs = [generate_step(backend, slots, [1], greedy, max_tokens=2) for _ in range(4)]
    for run in runs[:3]:
        next(run)
    with pytest.raises(NoFreeSlotError):
        next(runs[3])


def test_a_slot_used_again_remembers_nothing():
    backend, slots = make()
    first = list(generate_step(backend, slots, [5, 6], greedy, max_tokens=9))
    list(generate_step(backend, slots, range(20), greedy, max_tokens=3))
    assert list(generate_step(backend, slots, [5, 6], greedy, max_tokens=9)) == first


@pytest.fixture
def bundle(fake_bundle) -> Bundle:
    return open_bundle(fake_bundle)


@pytest.fixture
def session(bundle):
    backend = FakeBackend.open(bundle, capacity=bundle.manifest.context_length)
    return DecoderSession(backend, Tokenizer.open(bundle), bundle.manifest, prefill_chunk=4)


REPLY = "The capital of France is Paris 🙂."


@pytest.fixture
def prompt(bundle):
    return Tokenizer.open(bundle).encode("<|user|>Where?<|end|><|assistant|>")


def test_stream_gives_whole_characters_and_figures_at_the_end(session, prompt):
    pieces = list(session.stream(prompt, GenerationOptions(max_tokens=99)))
    reply = REPLY.encode()
    assert pieces[:2] == [Piece("", ())] * 2  # 9 tokens in chunks of 4
    assert "".join(piece.text for piece in pieces) == REPLY
    assert [len(piece.token_ids) for piece in pieces[2:]] == [1] * (len(reply) + 1)
    smile = [piece.text for piece in pieces if not piece.text.isascii()]
    assert smile == ["🙂"]
    *others, last = pieces
    assert all(piece.finished is piece.statistics is None for piece in others)
    assert (last.text, last.token_ids, last.finished) == ("", (END,), "stop")
    assert last.statistics is not None
    assert last.statistics.prompt_tokens == 9
    assert last.statistics.generated_tokens == len(reply) + 1
    assert last.statistics.peak_rss_bytes > 1 << 20


def test_figures_leave_the_consumers_time_out(session, prompt, monkeypatch):
    """A clock that the engine moves by 1 s a step, and the consumer by 1000 s a piece."""
    now = [0.0]
    monkeypatch.setattr(answer, "perf_counter", lambda: now[0])
    step = session._backend.step

    def slow_step(*arguments):
        now[0] += 1.0
        return step(*arguments)

    monkeypatch.setattr(session._backend, "step", slow_step)
    options = GenerationOptions(max_tokens=5)
    for piece in session.stream(prompt, options, encoding_seconds=0.5):
        now[0] += 1000.0
        statistics = piece.statistics
    assert statistics.time_to_first_token_seconds == 3.5
    assert statistics.prefill_tokens_per_second == 9 / 3.5
    assert statistics.decode_tokens_per_second == 1.0
    assert statistics.generated_tokens == 5


def test_one_token_has_no_decode_speed(session, prompt):
    statistics = session.generate(prompt, GenerationOptions(max_tokens=1)).statistics
    assert statistics.decode_tokens_per_second == 0.0
    assert statistics.generated_tokens == 1


def test_generate_is_the_pieces_put_together(session, prompt):
    for options in (
        GenerationOptions(max_tokens=99),
        GenerationOptions(max_tokens=32),
        GenerationOptions(stop=("is P",)),
    ):
        pieces = list(session.stream(prompt, options))
        result = session.generate(prompt, options)
        assert result.text == "".join(piece.text for piece in pieces)
        assert result.token_ids == tuple(i for piece in pieces for i in piece.token_ids)
        assert result.finish_reason == pieces[-1].finished


def test_a_cut_character_is_marked_at_the_end(session, prompt):
    length = len(REPLY.encode().partition("🙂".encode())[0]) + 2
    result = session.generate(prompt, GenerationOptions(max_tokens=length))
    assert result.text == "The capital of France is Paris \ufffd"
    assert result.finish_reason == "length"


def test_a_stop_text_over_tokens_ends_the_answer(session, prompt):
    backend_steps = session._backend.steps
    result = session.generate(prompt, GenerationOptions(stop=("xyz", " Par")))
    assert result.text == "The capital of France is"
    assert result.finish_reason == "stop"
    assert session._tokenizer.decode(result.token_ids) == "The capital of France is Par"
    assert session._backend.steps - backend_steps == 3 + len(result.token_ids) - 1


def test_text_that_only_begins_a_stop_text_is_given_out_in_the_end(session, prompt):
    result = session.generate(prompt, GenerationOptions(stop=("🙂.!",)))
    assert result.text == REPLY
    result = session.generate(prompt, GenerationOptions(stop=("France is not",), max_tokens=24))
    assert result.text == "The capital of France is"


def test_closing_a_stream_frees_the_slot(session, prompt):
    for taken in (1, 2, 3, 8):
        stream = session.stream(prompt, GenerationOptions())
        list(itertools.islice(stream, taken))
        assert session.slots.free_slots == 0
        stream.close()
        assert session.slots.free_slots == 1
    assert session.generate(prompt, GenerationOptions(max_tokens=99)).text == REPLY


def test_the_slot_is_free_with_the_last_piece(session, prompt):
    for piece in session.stream(prompt, GenerationOptions(max_tokens=3)):
        assert session.slots.free_slots == (piece.finished is not None)
    for piece in session.stream(prompt, GenerationOptions(stop=("cap",))):
        assert session.slots.free_slots == (piece.finished is not None)


def test_a_seed_repeats_a_sampled_answer(session):
    options = GenerationOptions(max_tokens=20, temperature=2.0, seed=5)
    first, second = (session.generate([7, 8, 9], options) for _ in range(2))
    assert first.token_ids == second.token_ids
    other = session.generate([7, 8, 9], GenerationOptions(max_tokens=20, temperature=2.0, seed=6))
    assert other.token_ids != first.token_ids


def test_the_repetition_penalty_knows_the_prompt(session):
    """With a penalty without bound, every id comes once."""
    options = GenerationOptions(max_tokens=100, repetition_penalty=100.0)
    prompt = list(range(10, 30))
    ids = session.generate(prompt, options).token_ids
    assert len(set(ids)) == len(ids)
    assert not set(ids) & set(prompt)


def test_logits_that_are_no_numbers_are_an_error(session, monkeypatch):
    monkeypatch.setattr(session._backend, "step", lambda *_: np.full((1, 260), np.nan, np.float32))
    with pytest.raises(LogitsError):
        session.generate([1], GenerationOptions())
    assert session.slots.free_slots == 1


def test_collect_wants_an_end():
    def broken():
        yield Piece("a", (1,))

    with pytest.raises(ValueError, match="before the generation has finished"):
        collect(broken())
