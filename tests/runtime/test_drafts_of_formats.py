"""What a format makes likely is drafted, and answers are what they are token by token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.draft_length import StepCosts
from edgewise.runtime.drafting import PromptLookup
from edgewise.runtime.log_probabilities import LogProbabilityRecorder
from edgewise.runtime.output_format import OutputFormat
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import SlotPool
from edgewise.runtime.speculation import Speculation

SCHEMA = {
    "type": "object",
    "properties": {
        "capital": {"type": "string", "maxLength": 6},
        "rain": {"type": "integer", "minimum": 0, "maximum": 120},
        "stays": {"enum": ["in Spain", "in the plain"]},
    },
    "required": ["capital", "rain", "stays"],
    "additionalProperties": False,
}
FORMATS = {
    "json": OutputFormat.json_schema(SCHEMA),
    "choice": OutputFormat.choice(["The capital of France is Paris.", "The capital is Paris"]),
    "only one": OutputFormat.choice(["The rain in spain"]),
    "regex": OutputFormat.regex("(the rain|the capital) [a-c]{2,4} in the plain"),
    "free": OutputFormat.regex("(?s:.*)"),
}
END = 1


class Unchecked(FakeBackend):
    """Checks no drafts."""

    verifies = False


def greedy(logits):
    return int(logits.argmax())


def answer(
    compiler,
    output_format,
    *,
    prompt=(40, 41, 42),
    engine=FakeBackend,
    max_tokens=120,
    capacity=160,
    window=None,
    lookup=False,
    recorder=None,
):
    backend = engine(vocabulary_size=430, slots=1, capacity=capacity)
    scheduler = Scheduler(backend, SlotPool(1, capacity, bytes_of=backend.slot_bytes))
    speculation = Speculation(prompt, PromptLookup(), StepCosts()) if lookup else None
    decoding = Decoding(
        list(prompt),
        greedy,
        max_tokens=max_tokens,
        end_ids={END},
        constraint=compiler.compile(output_format),
        recorder=recorder,
        speculation=speculation,
        window=window,
    )
    pieces = list(scheduler.run(decoding))
    assert scheduler.pool.free_slots == 1
    return pieces, backend


def ids(pieces):
    return [token for piece in pieces for token in piece.token_ids]


def token_by_token(compiler, output_format, prompt, max_tokens, capacity):
    """Answer without a cache, a scheduler or drafts."""
    backend = FakeBackend(vocabulary_size=430)
    constraint = compiler.compile(output_format)
    tokens, due = [], list(constraint.forced())
    most = min(max_tokens, capacity - len(prompt) + 1)
    while len(tokens) < most:
        if due:
            token = due.pop(0)
        else:
            logits = backend.logits_after([*prompt, *tokens])
            constraint.apply(logits)
            token = greedy(logits)
            if token != END:
                constraint.accept(token)
                due = list(constraint.forced())
        tokens.append(token)
        if token == END or (constraint.complete and not due):
            return tokens, "stop"
    return tokens, "length"


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    prompt=st.lists(st.integers(3, 400), min_size=1, max_size=10),
    max_tokens=st.integers(1, 90),
    capacity=st.integers(10, 130),
    lookup=st.booleans(),
    recorded=st.booleans(),
    engine=st.sampled_from([FakeBackend, Unchecked]),
)
def test_the_answer_is_the_one_made_token_by_token(
    level_compiler, name, prompt, max_tokens, capacity, lookup, recorded, engine
):
    pieces, _ = answer(
        level_compiler,
        FORMATS[name],
        prompt=prompt,
        engine=engine,
        max_tokens=max_tokens,
        capacity=capacity,
        lookup=lookup,
        recorder=LogProbabilityRecorder(2) if recorded else None,
    )
    expected = token_by_token(level_compiler, FORMATS[name], prompt, max_tokens, capacity)
    assert (ids(pieces), pieces[-1].finished) == expected
    statistics = pieces[-1].statistics
    assert statistics.prompt_tokens == len(prompt)
    assert statistics.generated_tokens == len(expected[0])
    assert statistics.reused_tokens <= len(prompt)


@pytest.mark.parametrize("name", ["json", "regex", "choice"])
def test_probabilities_are_those_without_drafts(level_compiler, name):
    def told(engine):
        recorder = LogProbabilityRecorder(3)
        pieces, backend = answer(level_compiler, FORMATS[name], engine=engine, recorder=recorder)
        return [piece.log_probabilities for piece in pieces], backend.steps

    drafted, few = told(FakeBackend)
    plain, many = told(Unchecked)
    assert drafted == plain
    assert few < many


def test_what_an_answer_begins_with_is_read_with_the_prompt(level_compiler):
    pieces, backend = answer(level_compiler, FORMATS["only one"])
    assert backend.steps == 1
    assert pieces[-1].finished == "stop"
    assert pieces[-1].statistics.prompt_tokens == 3


def test_a_beginning_that_no_slot_holds_is_not_read_with_the_prompt(level_compiler):
    beginning = level_compiler.compile(FORMATS["only one"]).forced()
    assert len(beginning) > 3
    capacity = 3 + len(beginning)
    expected = ids(answer(level_compiler, FORMATS["only one"])[0])
    for less in range(len(beginning)):
        pieces, _ = answer(level_compiler, FORMATS["only one"], capacity=capacity - less)
        assert ids(pieces) == expected[: len(beginning) + 1 - less]


def test_an_endless_answer_in_a_format_keeps_to_its_window(level_compiler):
    format_ = OutputFormat.regex("The capital of France is Paris(the rain ){30}")
    whole, _ = answer(level_compiler, format_, capacity=24, window=24, max_tokens=200)
    assert whole[-1].finished == "stop"
    narrow, _ = answer(
        level_compiler, format_, capacity=24, window=24, max_tokens=200, prompt=range(3, 25)
    )
    assert ids(narrow) == ids(whole)  # all of it is forced


def test_texts_that_are_certain_save_steps(level_compiler, byte_level_tokenizer):
    """A text must come that could be written with other tokens, but the model writes it so."""
    form = OutputFormat.regex("(a|b)The capital of Franc(e|is) [0-9]")
    words = ("a", "The", " capital", " of", " Fr", "an", "c", "is", " ", "7")
    tokens = [byte_level_tokenizer.encode(word).ids for word in words]
    written = [token for (token,) in tokens]

    class Writing(FakeBackend):
        def logits_after(self, history):
            logits = super().logits_after(history)
            logits[written[len(history) - 3]] = logits.max() + 1
            return logits

    class UncheckedWriting(Writing):
        verifies = False

    drafted, fewer = answer(level_compiler, form, engine=Writing)
    plain, more = answer(level_compiler, form, engine=UncheckedWriting)
    assert ids(drafted) == ids(plain) == written
    assert more.steps == 6  # "The capital of" is forced and read at once, and so is "is "
    assert fewer.steps == 3  # " Franc" is checked with what is read before it


def test_drafts_of_the_prompt_are_cut_where_the_format_forbids_them(level_compiler):
    constraint = level_compiler.compile(OutputFormat.regex("[a-c]+ in the"))
    a, b, z = (level_compiler._tokenizer.tokenize_str(letter)[0] for letter in "abz")
    assert constraint.possible([a, b, z, a]) == 2
    assert constraint.possible([z]) == 0
    constraint.accept(a)
    assert constraint.possible([z, a]) == 0


class PanicException(BaseException):
    """As pyo3 raises it: no Exception."""


@pytest.mark.parametrize("where", ["likely", "possible"])
def test_a_panic_while_drafting_ends_the_request_and_no_more(level_compiler, where):
    class Guessing:
        def draft(self, tokens, most):
            return [50][:most]

    constraint = level_compiler.compile(FORMATS["free"])

    def panic(*_):
        raise PanicException("called `Option::unwrap()` on a `None` value")

    setattr(constraint, where, panic)
    backend = FakeBackend(vocabulary_size=430, slots=1, capacity=60)
    scheduler = Scheduler(backend, SlotPool(1, 60))
    costs = StepCosts()
    costs.note(1, 1.0)
    bad = Decoding(
        [7], greedy, constraint=constraint, speculation=Speculation([7], Guessing(), costs)
    )
    with pytest.raises(RuntimeError, match="PanicException: called"):
        list(scheduler.run(bad))
    assert scheduler.pool.free_slots == 1
    assert len(ids(scheduler.run(Decoding([7], greedy, max_tokens=5)))) == 5
