"""The wire: every message survives the way out and back; nothing else gets in."""

import hashlib
import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device import request_making, worker
from edgewise.device.errors import WireError
from edgewise.device.image_fields import RequestImage
from edgewise.device.reply_messages import (
    FINAL_STATUSES,
    FINISH_REASONS,
    MAX_COUNT,
    Accepted,
    Busy,
    Chunk,
    End,
    ErrorCode,
    Failure,
    Final,
    Reply,
    Results,
    Usage,
    parse_reply,
)
from edgewise.device.request_messages import (
    MAX_REQUEST_BYTES,
    OPTIONS,
    ROLES,
    Cancel,
    ChatMessage,
    Request,
    TextsRequest,
    parse_cancel,
    parse_request,
    parse_texts_request,
    request_id_of,
)
from edgewise.device.told_tokens import TokenChance, ToldToken, told_tokens
from edgewise.runtime.generation import TokenLogProbability
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.output_format import OutputFormat

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ids = st.text("abcXYZ019._:-", min_size=1, max_size=64)
counts = st.integers(0, MAX_COUNT)
measures = st.floats(0, 1e9)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


chats = st.lists(st.builds(ChatMessage, st.sampled_from(ROLES), texts), min_size=1, max_size=4)
schemas = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)
filled = texts.filter(bool)
formats = (
    st.dictionaries(texts, schemas, max_size=3).map(OutputFormat.json_schema)
    | filled.map(OutputFormat.regex)
    | st.lists(filled, min_size=1, max_size=5).map(OutputFormat.choice)
    | filled.map(OutputFormat.lark)
)
images = st.binary(max_size=40).map(
    lambda content: RequestImage("image/jpeg", b"\xff\xd8\xff" + content)
)
requests = st.builds(
    Request,
    id=ids,
    max_tokens=optional(st.integers(1, 65_536)),
    temperature=optional(st.floats(0, 100)),
    top_k=optional(st.integers(0, 1_000_000)),
    top_p=optional(st.floats(0, 1)),
    min_p=optional(st.floats(0, 1)),
    repetition_penalty=optional(st.floats(0.01, 100)),
    typical_p=st.floats(0, 1),
    frequency_penalty=st.floats(-2, 2),
    presence_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, 999_999_999), st.floats(-100, 100), max_size=5),
    dry_multiplier=st.floats(0, 100),
    dry_base=st.floats(1, 100),
    dry_allowed_length=st.integers(1, 2**31 - 1),
    dry_breakers=st.lists(texts.filter(bool), max_size=16).map(tuple),
    seed=optional(st.integers(0, 2**63 - 1)),
    stop=st.lists(texts.filter(bool), max_size=16).map(tuple),
    raw=st.booleans(),
    beams=st.integers(1, 64),
    beam_groups=st.integers(1, 64),
    diversity_penalty=st.floats(0, 100),
    length_penalty=st.floats(-10, 10),
    priority=st.integers(0, 9),
    deadline_ms=optional(st.integers(1, 86_400_000)),
    stream=st.booleans(),
    output_format=optional(formats),
    logprobs=optional(st.integers(0, 20)),
    images=st.lists(images, max_size=4).map(tuple),
).flatmap(
    lambda request: (
        st.tuples(texts, optional(filled)).map(
            lambda asked: replace(request, prompt=asked[0], task=asked[1])
        )
        | chats.map(lambda chat: replace(request, messages=tuple(chat)))
    )
)
text_requests = st.builds(
    TextsRequest,
    id=ids,
    texts=st.lists(texts | st.tuples(texts, texts), min_size=1, max_size=5).map(tuple),
    top=optional(st.integers(1, 1000)),
    priority=st.integers(0, 9),
    deadline_ms=optional(st.integers(1, 86_400_000)),
    stream=st.booleans(),
)
usages = st.builds(
    Usage,
    prompt_tokens=optional(counts),
    generated_tokens=optional(counts),
    queue_ms=optional(measures),
    time_to_first_token_ms=optional(measures),
    total_ms=optional(measures),
    tokens_per_second=optional(measures),
    peak_rss_bytes=optional(counts),
)
chance = (st.integers(0, 2**31 - 1), texts, st.floats(-1e30, 0))
told = st.builds(
    ToldToken, *chance, st.lists(st.builds(TokenChance, *chance), max_size=3).map(tuple)
)
replies: st.SearchStrategy[Reply] = (
    st.builds(Accepted, ids, counts)
    | st.builds(Chunk, ids, counts, texts)
    | st.builds(Busy, ids, counts, counts)
    | st.builds(Failure, ids, st.sampled_from([int(code) for code in ErrorCode]), texts)
    | st.builds(
        Results,
        ids,
        st.lists(st.dictionaries(texts, counts | texts), min_size=1, max_size=3).map(tuple),
        usages,
    )
    | st.builds(
        Final,
        ids,
        st.sampled_from(FINAL_STATUSES),
        texts,
        counts,
        usages,
        optional(st.sampled_from(FINISH_REASONS)),
        st.lists(told, max_size=3).map(tuple),
    )
)


@settings(deadline=None)
@given(requests)
def test_a_request_survives_the_wire(request: Request) -> None:
    assert parse_request(request.encode()) == request


@settings(deadline=None)
@given(text_requests)
def test_a_request_about_texts_survives_the_wire(request: TextsRequest) -> None:
    assert parse_texts_request(request.encode()) == request


@settings(deadline=None)
@given(replies)
def test_a_reply_survives_the_wire(reply: Reply) -> None:
    assert parse_reply(reply.encode()) == reply


@settings(deadline=None)
@given(ids)
def test_a_cancel_survives_the_wire(request_id: str) -> None:
    assert parse_cancel(Cancel(request_id).encode()) == Cancel(request_id)


@settings(deadline=None)
@given(replies, st.data())
def test_a_reply_with_a_field_more_or_less_is_refused(reply: Reply, data: st.DataObject) -> None:
    value = json.loads(reply.encode())
    with pytest.raises(WireError, match="unknown fields"):
        parse_reply(json.dumps({**value, "surprise": 1}).encode())
    needed = sorted(set(value) - {"finish_reason", "logprobs", "status"})
    missing = data.draw(st.sampled_from(needed))
    value.pop(missing)
    if missing == "fin" and not isinstance(reply, End | Busy):
        return  # its absence says the same
    with pytest.raises(WireError):
        parse_reply(json.dumps(value).encode())


def test_the_payloads_are_those_of_the_protocol() -> None:
    usage = Usage(prompt_tokens=3, tokens_per_second=2.5)
    digest = hashlib.sha256("Grüße".encode()).hexdigest()
    assert json.loads(Request("a", prompt="Hi").encode()) == {"v": 1, "id": "a", "prompt": "Hi"}
    assert json.loads(Accepted("a", 2).encode()) == {
        "v": 1,
        "id": "a",
        "fin": False,
        "status": "accepted",
        "queue_depth": 2,
    }
    assert json.loads(Chunk("a", 0, "x").encode()) == {
        "v": 1,
        "id": "a",
        "seq": 0,
        "text": "x",
        "fin": False,
    }
    assert json.loads(Final("a", "ok", "Grüße", 4, usage, "stop").encode()) == {
        "v": 1,
        "id": "a",
        "fin": True,
        "status": "ok",
        "text": "Grüße",
        "n_chunks": 4,
        "sha256": digest,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "tokens_per_second": 2.5},
    }
    assert json.loads(Busy("a", 500, 8).encode()) == {
        "v": 1,
        "id": "a",
        "fin": True,
        "status": "busy",
        "code": 429,
        "retry_after_ms": 500,
        "queue_depth": 8,
    }
    assert json.loads(Failure("a", ErrorCode.CONFLICT, "no").encode()) == {
        "v": 1,
        "id": "a",
        "fin": True,
        "status": "error",
        "code": 409,
        "message": "no",
    }


GOOD: dict[str, Any] = {"v": 1, "id": "q1", "prompt": "Hi"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version 2"),
        ({"v": True}, "version True"),
        ({"v": "1"}, "version '1'"),
        ({"v": None}, "no field 'v'"),
        ({"id": None}, "no field 'id'"),
        ({"id": ""}, "'id' must be"),
        ({"id": "a b"}, "'id' must be"),
        ({"id": "a/b"}, "'id' must be"),
        ({"id": "a+"}, "'id' must be"),
        ({"id": "#"}, "'id' must be"),
        ({"id": "$x"}, "'id' must be"),
        ({"id": "é"}, "'id' must be"),
        ({"id": "a\n"}, "'id' must be"),
        ({"id": "x" * 65}, "'id' must be"),
        ({"id": 7}, "'id' must be"),
        ({"prompt": None}, "exactly one"),
        ({"messages": [{"role": "user", "content": "x"}]}, "exactly one"),
        ({"prompt": None, "messages": []}, "1 to 256"),
        ({"prompt": None, "messages": {}}, "1 to 256"),
        ({"prompt": None, "messages": ["x"]}, "must be an object"),
        ({"prompt": None, "messages": [{"role": "robot", "content": "x"}]}, "accepted: system"),
        ({"prompt": None, "messages": [{"role": "user"}]}, "'content'"),
        ({"prompt": None, "messages": [{"role": "user", "content": "x", "y": 1}]}, "unknown"),
        ({"prompt": 5}, "'prompt' must be a string"),
        ({"max_tokens": 0}, "from 1 to"),
        ({"max_tokens": 1.5}, "whole number"),
        ({"max_tokens": True}, "whole number"),
        ({"max_tokens": 10**30}, "whole number"),
        ({"temperature": "hot"}, "a number"),
        ({"temperature": True}, "a number"),
        ({"temperature": -1}, "0 to 100"),
        ({"top_p": 1.1}, "0 to 1"),
        ({"typical_p": 1.1}, "0 to 1"),
        ({"frequency_penalty": -2.5}, "-2 to 2"),
        ({"presence_penalty": "1"}, "a number"),
        ({"logit_bias": [1]}, "must be an object"),
        ({"logit_bias": {"a": 1}}, "up to 1024 token ids"),
        ({"logit_bias": {"01": 1}}, "up to 1024 token ids"),
        ({"logit_bias": {"-1": 1}}, "up to 1024 token ids"),
        ({"logit_bias": {"1": 101}}, "a number from -100 to 100"),
        ({"logit_bias": {"1": None}}, "each with a number"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "up to 1024"),
        ({"dry_multiplier": -1}, "0 to 100"),
        ({"dry_base": 0.5}, "1 to 100"),
        ({"dry_allowed_length": 0}, "from 1"),
        ({"dry_breakers": "x"}, "list"),
        ({"dry_breakers": [""]}, "each text"),
        ({"dry_breakers": ["x"] * 17}, "list"),
        ({"logprobs": 21}, "from 0 to 20"),
        ({"logprobs": True}, "whole number"),
        ({"seed": -1}, "whole number"),
        ({"stop": "x"}, "list"),
        ({"stop": [""]}, "each text"),
        ({"stop": [5]}, "each text"),
        ({"stop": ["x"] * 17}, "list"),
        ({"raw": 1}, "true or false"),
        ({"priority": 10}, "0 to 9"),
        ({"deadline_ms": 0}, "from 1"),
        ({"stream": "yes"}, "true or false"),
        ({"sender": "admin"}, "unknown fields: 'sender'"),
        ({"schema": []}, "'schema' must be an object"),
        ({"schema": "{}"}, "'schema' must be an object"),
        ({"schema": {}, "regex": "a"}, "'schema' and 'regex'; give one"),
        ({"choices": ["a"], "grammar": "a"}, "'choices' and 'grammar'; give one"),
        ({"regex": ""}, "'regex' is refused: the regex format has 0 bytes"),
        ({"regex": 5}, "'regex' must be a string"),
        ({"regex": "a" * 65_537}, "'regex' must be a string of 0 to 65536"),
        ({"choices": "a"}, "list"),
        ({"choices": []}, "1 to 1000"),
        ({"choices": ["a", ""]}, "'choices' is refused: .* a text with content"),
        ({"choices": ["a", 1]}, "'choices' is refused: .* a text with content"),
        ({"grammar": ["start: x"]}, "'grammar' must be a string"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(change: dict[str, Any], reason: str) -> None:
    payload = json.dumps({**GOOD, **change}).encode()
    with pytest.raises(WireError, match=f"(?i){reason}") as caught:
        parse_request(payload)
    assert caught.value.request_id == ("q1" if "id" not in change else None)


def test_a_request_has_every_option_of_generating() -> None:
    names = {one.name for one in fields(GenerationOptions)}
    assert {"max_tokens", *OPTIONS} == names


def test_a_schema_may_be_nested_and_not_without_end() -> None:
    schema: dict[str, Any] = {}
    for _ in range(60):
        schema = {"items": schema}
    request = parse_request(json.dumps({**GOOD, "schema": schema}).encode())
    assert request.output_format == OutputFormat.json_schema(schema)
    endless = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    with pytest.raises(WireError) as caught:
        parse_request(b'{"v":1,"id":"q","schema":%s}' % endless)
    assert caught.value.code == ErrorCode.TOO_LARGE
    deep = b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    with pytest.raises(WireError, match="nested deeper than 64 levels"):
        parse_request(b'{"v":1,"id":"q","schema":%s}' % deep)


def test_an_error_does_not_repeat_a_long_value() -> None:
    with pytest.raises(WireError) as caught:
        parse_request(json.dumps({**GOOD, "max_tokens": "x" * 10_000}).encode())
    assert len(str(caught.value)) < 200


def test_a_request_that_is_too_large_says_so_with_its_own_code() -> None:
    payload = json.dumps({**GOOD, "prompt": "x" * MAX_REQUEST_BYTES}).encode()
    with pytest.raises(WireError) as caught:
        parse_request(payload)
    assert caught.value.code == ErrorCode.TOO_LARGE


def test_what_is_told_of_tokens_has_their_texts() -> None:
    texts = {1: b"The", 2: "ü".encode()[:1], 3: b""}
    found = [
        TokenLogProbability(1, -0.12345678, ((1, -0.12345678), (2, -2.5))),
        TokenLogProbability(3, -math.inf, ()),
    ]
    assert told_tokens(found, texts.__getitem__) == (
        ToldToken(
            1, "The", -0.123457, (TokenChance(1, "The", -0.123457), TokenChance(2, "\ufffd", -2.5))
        ),
        ToldToken(3, "", -1e30),
    )


def test_what_is_told_of_tokens_is_checked() -> None:
    final = json.loads(Final("a", "ok", "x", 0, Usage(), None, (ToldToken(1, "x", -1.0),)).encode())
    assert final["logprobs"] == [{"token_id": 1, "text": "x", "logprob": -1.0, "likeliest": []}]
    for change, reason in (
        ({"logprob": 0.5}, "accepted: -1e"),
        ({"token_id": -1}, "whole number"),
        ({"text": None}, "no field 'text'"),
        ({"likeliest": [{"token_id": 1}]}, "no field 'text'"),
        ({"likeliest": [1]}, "must be an object"),
        ({"rank": 1}, "unknown fields: 'rank'"),
    ):
        broken = {**final, "logprobs": [{**final["logprobs"][0], **change}]}
        with pytest.raises(WireError, match=reason):
            parse_reply(json.dumps(broken).encode())


def test_a_final_whose_text_was_changed_is_refused() -> None:
    value = json.loads(Final("a", "ok", "yes", 0, Usage()).encode())
    value["text"] = "no"
    with pytest.raises(WireError, match="sha256"):
        parse_reply(json.dumps(value).encode())


@pytest.mark.parametrize(
    "reply",
    [Accepted("a", 0), Chunk("a", 0, "x"), Busy("a", 1, 1), Final("a", "ok", "", 0, Usage())],
)
def test_a_reply_whose_fin_contradicts_its_status_is_refused(reply: Reply) -> None:
    value = json.loads(reply.encode())
    value["fin"] = not value["fin"]
    with pytest.raises(WireError, match="fin"):
        parse_reply(json.dumps(value).encode())


def test_the_id_of_any_message_is_found_where_there_is_one() -> None:
    assert request_id_of(b'{"id":"x","anything":[1]}') == "x"
    assert request_id_of(b'{"id":"a/b"}') is None
    assert request_id_of(b"rubbish") is None


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(),
        GenerationOptions(beams=6, beam_groups=3, diversity_penalty=0.5, length_penalty=-2.0),
        GenerationOptions(beams=2, length_penalty=0.0, repetition_penalty=1.5, stop=("x",)),
        GenerationOptions(max_tokens=7, temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, seed=3),
        GenerationOptions(
            typical_p=0.9,
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            logit_bias={0: -100, 42: 1.5},
            dry_multiplier=0.8,
            dry_base=1.5,
            dry_allowed_length=3,
            dry_breakers=(),
        ),
        GenerationOptions(output_format=OutputFormat.json_schema({"type": "object"})),
        GenerationOptions(logprobs=0),
        GenerationOptions(logprobs=20),
        GenerationOptions(output_format=OutputFormat.regex("[ab]+é")),
        GenerationOptions(output_format=OutputFormat.choice(["yes", "no"])),
        GenerationOptions(output_format=OutputFormat.lark('start: "a"')),
    ],
)
def test_what_is_asked_for_here_is_what_the_model_is_asked_for_there(
    options: GenerationOptions,
) -> None:
    sent = request_making.generation_request(
        "hi", options, request_id="q", priority=5, deadline_seconds=1.0
    )
    received = parse_request(sent.encode())
    assert worker.generation_options(received, max_tokens=256) == options
