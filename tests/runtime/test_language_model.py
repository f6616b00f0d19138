import threading

import pytest

import edgewise.runtime
from edgewise.common.errors import EdgewiseError
from edgewise.runtime import scheduler
from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.bundle import SamplingDefaults
from edgewise.runtime.chat import ChatError
from edgewise.runtime.loading import load
from edgewise.runtime.model import ModelError
from edgewise.runtime.options import GenerationOptions, OptionsError
from edgewise.runtime.output_format import OutputFormat
from edgewise.runtime.prefix_store import PrefixError
from edgewise.runtime.slot_pool import LEAST_COPIED, ContextError

REPLY = "The capital of France is Paris 🙂."
LONG = GenerationOptions(max_tokens=99)


@pytest.fixture
def model(fake_bundle):
    with load(fake_bundle) as model:
        yield model


def test_text_and_messages_give_the_same_chat(model):
    expected = model.generate("Where is Paris?", LONG)
    assert expected.text == REPLY
    assert model.generate([{"role": "user", "content": "Where is Paris?"}], LONG) != expected
    assert (
        model.generate([{"role": "user", "content": "Where is Paris?"}], LONG).token_ids
        == expected.token_ids
    )
    assert "".join(piece.text for piece in model.stream("Where is Paris?", LONG)) == REPLY


def test_the_public_names(fake_bundle):
    with edgewise.runtime.load(fake_bundle) as model:
        assert isinstance(model, edgewise.runtime.LanguageModel)
        result = model.generate("Hi", edgewise.runtime.GenerationOptions(max_tokens=3))
        assert isinstance(result, edgewise.runtime.Generation)
        assert isinstance(result.statistics, edgewise.runtime.Statistics)
    for name in edgewise.runtime.__all__:
        assert getattr(edgewise.runtime, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'unknown'"):
        edgewise.runtime.unknown  # noqa: B018  # the access is what is tested


def test_counts_with_the_template(model):
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": "cde"}]
    assert model.count_tokens(messages) == 2 + 2 + 2 + 3 + 1
    assert model.count_tokens("cde") == 1 + 3 + 1 + 1
    assert model.count_tokens("cde", raw=True) == 3
    statistics = model.generate(messages, LONG).statistics
    assert statistics.prompt_tokens == 10


def test_raw_is_fed_as_it_is(model):
    result = model.generate("abc", GenerationOptions(raw=True, max_tokens=5, temperature=0))
    backend = FakeBackend(vocabulary_size=260)
    history = model.tokenizer.encode("abc")
    for token in result.token_ids:
        assert int(backend.logits_after(history).argmax()) == token
        history.append(token)
    assert model.generate("<|assistant|>", GenerationOptions(raw=True, max_tokens=99)).text == REPLY


def test_a_bundle_without_a_template(tmp_path):
    folder = write_fake_bundle(tmp_path / "b", chat=False)
    with load(folder) as model:
        raw = GenerationOptions(raw=True, max_tokens=5)
        plain = GenerationOptions(max_tokens=5)
        assert model.generate("abc", plain).token_ids == model.generate("abc", raw).token_ids
        with pytest.raises(ChatError, match="no chat template, so it takes no messages"):
            model.stream([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("prompt", "options", "kind", "match"),
    [
        ([], None, ChatError, "at least one"),
        ([{"role": "robot", "content": "Hi"}], None, ChatError, "the role 'robot'"),
        (7, None, ChatError, "must be a list"),
        ([{"role": "user", "content": "Hi"}], GenerationOptions(raw=True), ChatError, "raw"),
        ("", GenerationOptions(raw=True), ContextError, "the prompt is empty"),
        ("x" * 254, None, ContextError, "the prompt has 257 tokens, the context holds 256"),
        ("\ud800", None, EdgewiseError, "surrogate"),
        ("Hi", GenerationOptions(beams=2), OptionsError, "beams is 2; accepted by .* fake.*: 1"),
    ],
)
def test_what_can_be_refused_is_refused_at_the_call(model, prompt, options, kind, match):
    with pytest.raises(kind, match=match):
        model.stream(prompt, options)
    assert model.generate("Hi", LONG).text == REPLY


def test_the_bundles_sampling_is_the_default(tmp_path):
    advised = SamplingDefaults(temperature=5.0, top_k=50)
    folder = write_fake_bundle(tmp_path / "b", chat=False, defaults=advised)
    with load(folder) as model:
        greedy = GenerationOptions(temperature=0, max_tokens=30)
        sampled = [GenerationOptions(max_tokens=30, seed=seed) for seed in (1, 2)]
        texts = [model.generate("abc", options).token_ids for options in (greedy, *sampled)]
        assert len(set(texts)) == 3


def test_a_shorter_context(fake_bundle):
    with load(fake_bundle, context_length=10) as model:
        assert model.context_length == 10
        with pytest.raises(ContextError, match="the prompt has 11 tokens, the context holds 10"):
            model.stream("12345678")
        assert len(model.generate("1234", LONG).token_ids) == 10 - 7 + 1


def test_the_prompt_is_read_in_chunks(fake_bundle):
    with load(fake_bundle, prefill_chunk=2) as model:
        pieces = list(model.stream("123456", LONG))  # 9 tokens with the template
        assert [piece.token_ids for piece in pieces[:5]] == [
            (),
            (),
            (),
            (),
            (pieces[4].token_ids[0],),
        ]
        assert "".join(piece.text for piece in pieces) == REPLY


def test_closing_a_stream_cancels_and_the_next_one_is_unharmed(model):
    stream = model.stream("Hi", LONG)
    next(stream)
    next(stream)
    stream.close()
    assert model.generate("Hi", LONG).text == REPLY


def test_a_dropped_stream_gives_its_turn_back(model):
    for _ in range(3):
        stream = model.stream("Hi", LONG)
        next(stream)
        del stream
    assert model.generate("Hi", LONG).text == REPLY


@pytest.mark.parametrize("slots", [1, 3])
def test_several_streams_may_be_open_in_one_thread(fake_bundle, slots):
    with load(fake_bundle, slots=slots) as model:
        streams = [model.stream("Hi" * n, LONG) for n in range(1, 5)]
        texts = [next(stream).text for stream in streams]
        assert model.generate("Hi", LONG).text == REPLY
        for text, stream in zip(texts, reversed(streams), strict=True):
            assert (text + "".join(piece.text for piece in stream)).endswith(REPLY)


def test_an_unstarted_stream_takes_no_turn(model):
    later = model.stream("Hi", LONG)
    assert model.generate("Hi", LONG).text == REPLY
    assert "".join(piece.text for piece in later) == REPLY


def test_threads_take_turns(fake_bundle):
    with load(fake_bundle) as model:
        texts = []

        def work(index):
            texts.extend(model.generate("x" * index, LONG).text for _ in range(5))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == [REPLY] * 20


def test_a_stream_may_move_to_another_thread(model):
    stream = model.stream("Hi", LONG)
    texts = [next(stream).text]
    thread = threading.Thread(target=lambda: texts.extend(piece.text for piece in stream))
    thread.start()
    thread.join()
    assert "".join(texts) == REPLY
    assert model.generate("Hi", LONG).text == REPLY


def test_after_close_there_is_a_clear_error(fake_bundle):
    model = load(fake_bundle)
    later = model.stream("Hi", LONG)
    model.close()
    model.close()
    with pytest.raises(ModelError, match="the model is closed; load the bundle again"):
        model.generate("Hi")
    with pytest.raises(ModelError, match="the model is closed"):
        next(later)


def test_leaving_the_block_cancels_an_open_stream_of_this_thread(fake_bundle):
    with load(fake_bundle) as model:
        stream = model.stream("Hi", LONG)
        next(stream)
    with pytest.raises(ModelError, match="the model is closed"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_close_ends_another_threads_generation(tmp_path):
    model = load(write_fake_bundle(tmp_path / "b", step_seconds=0.005))
    begun = threading.Event()
    errors = []

    def work():
        try:
            for _ in model.stream("Hi", LONG):
                begun.set()
        except ModelError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    model.close()
    thread.join(10)
    assert errors == ["the model is closed; load the bundle again"]


def test_a_generator_held_after_its_last_piece_blocks_nobody(model):
    stream = model.stream("Hi", LONG)
    while not next(stream).finished:
        pass
    assert model.generate("Hi", LONG).text == REPLY
    assert next(stream, None) is None


def test_waiting_for_a_turn_is_no_time_to_first_token(model, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(scheduler, "perf_counter", lambda: now[0])
    stream = model.stream("Hi", LONG)
    next(stream)
    other = model.stream("Ho", LONG)
    now[0] += 1000.0
    stream.close()
    pieces = list(other)
    assert pieces[-1].statistics.time_to_first_token_seconds < 1000.0


def test_a_second_question_after_the_same_beginning_reuses_it(model):
    messages = [{"role": "system", "content": "s" * 30}, {"role": "user", "content": "one"}]
    first = model.generate(messages, LONG)
    assert first.statistics.reused_tokens == 0
    again = model.generate([messages[0], {"role": "user", "content": "two"}], LONG)
    assert again.text == first.text
    assert again.statistics.reused_tokens >= 30


SYSTEM = {"role": "system", "content": "Watch the greenhouse and answer briefly."}


def test_a_warm_beginning_stays_whatever_comes(model):
    tokens = model.warm([SYSTEM])
    assert tokens > len(SYSTEM["content"])
    model.generate("x" * 100, LONG)  # takes the only slot
    answer = model.generate([SYSTEM, {"role": "user", "content": "How is it?"}], LONG)
    assert answer.text == REPLY
    assert answer.statistics.reused_tokens == tokens


def test_a_saved_beginning_is_there_at_the_next_load(tmp_path):
    folder = write_fake_bundle(tmp_path / "bundle")
    with load(folder) as model:
        saved = model.save_beginning("Sum up in one sentence: ")
    with load(folder) as model:
        answer = model.generate("Sum up in one sentence: it rained.", LONG)
        assert answer.text == REPLY
        assert answer.statistics.reused_tokens == len(saved.tokens)
        saved.path.unlink()
        model.generate("y" * 100, LONG)
        answer = model.generate("Sum up in one sentence: it rained.", LONG)  # costs only time
        assert answer.text == REPLY
        assert answer.statistics.reused_tokens < LEAST_COPIED


@pytest.mark.parametrize(("budget", "least"), [(0, 0), (2000, 60)])
def test_with_a_budget_what_a_slot_loses_is_kept(fake_bundle, budget, least):
    first, second = "a" * 60, "b" * 60
    with load(fake_bundle, prefix_bytes=budget) as model:
        for prompt in (first, second):
            model.generate(prompt, LONG)
        reused = model.generate(first, LONG).statistics.reused_tokens
        assert least <= reused <= least + LEAST_COPIED


def test_a_beginning_that_is_too_short_is_refused(model):
    with pytest.raises(PrefixError, match=r"have 2 tokens in common; accepted: at least 16"):
        model.warm("a")


def test_a_window_goes_on_where_the_context_ends(fake_bundle):
    with load(fake_bundle, context_length=40) as model:
        endless = GenerationOptions(max_tokens=200, raw=True, window=36, temperature=0.0)
        assert model.generate("a" * 20, endless).statistics.generated_tokens == 200
        with pytest.raises(ContextError, match="the window holds 36"):
            model.stream("a" * 37, endless)
    with pytest.raises(OptionsError, match="window is 31"):
        GenerationOptions(window=31)


def test_an_answer_keeps_to_its_format(fake_bundle):
    options = GenerationOptions(
        max_tokens=50, output_format=OutputFormat.choice(["a cellar", "a greenhouse"])
    )
    with load(fake_bundle) as model:
        assert model.generate("Hi", options).text in ("a cellar", "a greenhouse")
        wrong = GenerationOptions(output_format=OutputFormat.regex("(a"))
        with pytest.raises(EdgewiseError, match="regex format can not be used"):
            model.stream("Hi", wrong)


def test_stop_texts_of_the_prompt_format_end_what_is_not_raw(tmp_path):
    with load(write_fake_bundle(tmp_path / "b", stop=(" France", "never"))) as model:
        assert model.generate("Hi", LONG).text == "The capital of"
        sooner = GenerationOptions(max_tokens=99, stop=("ca",))
        assert model.generate("Hi", sooner).text == "The "
        raw = GenerationOptions(max_tokens=99, raw=True)
        assert model.generate("<|assistant|>", raw).text == REPLY


def test_padding_rows_of_the_vocabulary_are_never_sampled(tmp_path):
    folder = write_fake_bundle(tmp_path / "b", chat=False, sampled_vocabulary=20)
    prompt = "xyz" * 10  # ids that are padding here, which a repetition penalty must not trip over
    for options in (
        {"temperature": 0},
        {"temperature": 100.0},
        {"temperature": 5.0, "top_k": 200},
        {"temperature": 5.0, "top_p": 0.99},
        {"temperature": 5.0, "min_p": 1e-6},
        {"temperature": 5.0, "repetition_penalty": 1.5},
    ):
        with load(folder) as model:
            result = model.generate(prompt, GenerationOptions(max_tokens=60, seed=1, **options))
            assert max(result.token_ids) < 20
            assert min(result.token_ids) >= 0
