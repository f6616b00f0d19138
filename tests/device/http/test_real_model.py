"""The real SmolLM2 behind the endpoint, asked by OpenAI's client."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgewise.runtime import load

pytestmark = pytest.mark.real
openai = pytest.importorskip("openai")

QUESTION = "What is the capital of France?"
QUESTIONS = [QUESTION, "Name a river.", "Who wrote Hamlet?"]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(smollm2):
    with load(smollm2(None).bundle.path, slots=2, context_length=256) as loaded:
        yield loaded


def test_openais_client_gets_what_the_model_says(serve, model):
    ask = serve(model, slots=2)
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    with openai.OpenAI(base_url=f"{ask.server.url}/v1", api_key="-", max_retries=0) as client:

        def create(question, **fields):
            fields = {"max_tokens": 8, "temperature": 0} | fields
            messages = [{"role": "user", "content": question}]
            return client.chat.completions.create(
                model=model.manifest.model_id, messages=messages, **fields
            )

        with ThreadPoolExecutor(len(QUESTIONS)) as clients:
            answers = list(clients.map(create, QUESTIONS))
        for question, answer in zip(QUESTIONS, answers, strict=True):
            assert answer.usage.prompt_tokens == model.count_tokens(question)
            assert 1 <= answer.usage.completion_tokens <= 8
        assert "Paris" in answers[0].choices[0].message.content
        # From here on the prompt's beginning is in the cache each time, so that all is alike.
        whole = create(QUESTION)
        assert whole.usage.prompt_tokens_details.cached_tokens > 0
        pieces = [
            choice.delta.content or ""
            for chunk in create(QUESTION, stream=True)
            for choice in chunk.choices
        ]
        assert "".join(pieces) == whole.choices[0].message.content
        formed = create(QUESTION, response_format=schema, max_tokens=40)
        assert list(json.loads(formed.choices[0].message.content)) == ["city"]
    ask.server.stop()
