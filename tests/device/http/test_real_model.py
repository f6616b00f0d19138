"""The real SmolLM2 behind the endpoint, asked by OpenAI's client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from edgewise.runtime import GenerationOptions, load

pytestmark = pytest.mark.real
openai = pytest.importorskip("openai")

QUESTION = "What is the capital of France?"
QUESTIONS = [QUESTION, "Name a river.", "Who wrote Hamlet?"]


@pytest.fixture(scope="module")
def model(smollm2):
    with load(smollm2(None).bundle.path, slots=2) as loaded:
        yield loaded


def messages(question):
    return [{"role": "user", "content": question}]


def test_openais_client_gets_what_the_model_says(serve, model):
    ask = serve(model, slots=2)
    name = model.manifest.model_id
    options = GenerationOptions(max_tokens=8, temperature=0)
    expected = {question: model.generate(question, options) for question in QUESTIONS}
    assert "Paris" in expected[QUESTION].text
    url = f"{ask.server.url}/v1"
    with (
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(3) as clients,
    ):

        def answer(question):
            return client.chat.completions.create(
                model=name, messages=messages(question), max_tokens=8, temperature=0
            )

        for question, whole in zip(QUESTIONS, clients.map(answer, QUESTIONS), strict=True):
            assert whole.choices[0].message.content == expected[question].text
            assert whole.choices[0].finish_reason == expected[question].finish_reason
            assert whole.usage.prompt_tokens == model.count_tokens(question)
        stream = client.chat.completions.create(
            model=name, messages=messages(QUESTION), max_tokens=8, temperature=0, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == expected[QUESTION].text
    ask.server.stop()
