"""Whatever JSON a request is, it is read or refused, and never a fault of ours."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.common.errors import EdgewiseError
from edgewise.device.http.api_errors import ApiError, as_api_error
from edgewise.device.http.embedding_requests import read_embedding_request
from edgewise.device.http.generation_requests import read_chat_request, read_text_request
from edgewise.device.http.request_fields import ABSENT, IGNORED
from edgewise.device.http.settings import ServerSettings

SETTINGS = ServerSettings()
WORDS = st.sampled_from(
    ["user", "text", "image_url", "json_schema", "json_object", "type", "float", "none", "", "7"]
)
NAMES = st.sampled_from(
    sorted(
        {
            "messages", "prompt", "input", "max_tokens", "max_completion_tokens", "temperature",
            "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "frequency_penalty",
            "presence_penalty", "logit_bias", "seed", "stop", "n", "stream", "stream_options",
            "logprobs", "top_logprobs", "response_format", "dry_multiplier", "dry_base",
            "dry_allowed_length", "dry_sequence_breakers", "encoding_format", "dimensions", "role",
            "content", "type", "text", "image_url", "url", "schema", "include_usage", "choices",
            *ABSENT, *IGNORED,
        }
    )
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | WORDS | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
MESSAGES = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("read", [read_chat_request, read_text_request, read_embedding_request])
@settings(max_examples=200, deadline=None)
@given(fields=st.dictionaries(NAMES, VALUES, max_size=4), whole=st.booleans())
def test_a_request_is_read_or_refused(read, fields, whole):
    body = {"model": "m", **fields}
    if whole:  # so that what comes after the prompt is looked at too
        name, value = {
            read_chat_request: ("messages", MESSAGES),
            read_text_request: ("prompt", "x"),
            read_embedding_request: ("input", "x"),
        }[read]
        body[name] = value
    refusal = None
    try:
        request = read(body, SETTINGS)
    except (EdgewiseError, ApiError) as error:
        refusal = as_api_error(error)
    if refusal is not None:
        assert 400 <= refusal.status < 500
        assert str(refusal)
    elif read is not read_embedding_request:
        assert 1 <= len(list(request.each())) <= SETTINGS.choices
        assert 1 <= request.options.max_tokens <= SETTINGS.max_tokens


@given(VALUES)
def test_a_message_is_read_or_refused(message):
    with contextlib.suppress(EdgewiseError, ApiError):
        request = read_chat_request({"model": "m", "messages": [message]}, SETTINGS, "<image>")
        ((first,),) = request.prompts
        assert set(first) == {"role", "content"}
