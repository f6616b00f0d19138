import itertools

import numpy as np
import pytest

from edgewise.runtime import scheduler
from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import END
from edgewise.runtime.bundle import Bundle, open_bundle
from edgewise.runtime.generation import Piece
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.sampling import LogitsError
from edgewise.runtime.sessions.answer import collect
from edgewise.runtime.sessions.decoder import DecoderSession
from edgewise.runtime.tokenizer import Tokenizer


@pytest.fixture
def bundle(fake_bundle) -> Bundle:
    return open_bundle(fake_bundle)


@pytest.fixture
def session(bundle):
    backend = FakeBackend.open(bundle, capacity=bundle.manifest.context_length)
    return DecoderSession(
        backend, Tokenizer.open(bundle), bundle.manifest, prefill_chunk=4, reuse=False
    )


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
    monkeypatch.setattr(scheduler, "perf_counter", lambda: now[0])
    step = session.scheduler._backend.step

    def slow_step(*arguments):
        now[0] += 1.0
        return step(*arguments)

    monkeypatch.setattr(session.scheduler._backend, "step", slow_step)
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
    backend_steps = session.scheduler._backend.steps
    result = session.generate(prompt, GenerationOptions(stop=("xyz", " Par")))
    assert result.text == "The capital of France is"
    assert result.finish_reason == "stop"
    assert session._tokenizer.decode(result.token_ids) == "The capital of France is Par"
    assert session.scheduler._backend.steps - backend_steps == 3 + len(result.token_ids) - 1


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
    monkeypatch.setattr(
        session.scheduler._backend, "step", lambda *_: np.full((1, 260), np.nan, np.float32)
    )
    with pytest.raises(LogitsError):
        session.generate([1], GenerationOptions())
    assert session.slots.free_slots == 1


def test_collect_wants_an_end():
    def broken():
        yield Piece("a", (1,))

    with pytest.raises(ValueError, match="before the generation has finished"):
        collect(broken())
