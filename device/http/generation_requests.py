"""Requests for text: what ``/v1/chat/completions`` and ``/v1/completions`` take.

Rules: what a request leaves out is as the bundle advises, where OpenAI's own models would sample at
temperature 1. ``max_tokens`` is an upper bound: more than the server allows is taken for as much as
it allows. Each answer of several has a seed of its own, counted from the request's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from edgewise.device.http.api_errors import unsupported
from edgewise.device.http.format_fields import take_output_format
from edgewise.device.http.message_fields import take_messages
from edgewise.device.http.request_fields import RequestFields
from edgewise.device.http.sampling_fields import take_sampling
from edgewise.device.http.settings import ServerSettings
from edgewise.runtime.options import LOGPROBS_MAX, GenerationOptions

Prompt: TypeAlias = str | list[dict[str, str]]

TEXT_TOKENS = 16  # of /v1/completions where a request does not say, as OpenAI has it


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate.

    Attributes:
        model: The name of the model that is asked.
        prompts: Texts, or one conversation.
        options: How, of each first answer.
        images: Contents of files, in the order of their marks in the conversation.
        choices: Answers to each prompt.
        stream: Send pieces as they come.
        include_usage: End a stream with the figures.
    """

    model: str
    prompts: tuple[Prompt, ...]
    options: GenerationOptions
    images: tuple[bytes, ...] = ()
    choices: int = 1
    stream: bool = False
    include_usage: bool = False

    def each(self) -> Iterator[tuple[Prompt, GenerationOptions]]:
        """Give the prompt and the options of every answer, in the order of their indices."""
        for prompt in self.prompts:
            for number in range(self.choices):
                yield prompt, self.options.numbered(number)


def read_chat_request(
    values: dict[str, Any], settings: ServerSettings, marker: str | None = None
) -> GenerationRequest:
    """Read the body of a request to continue a conversation.

    Args:
        values: The body.
        settings: Limits.
        marker: What stands for an image in a prompt; None: the model sees none.

    Raises:
        WireError: It breaks the form.
        ApiError: It asks for what is not done here.
        OptionsError: An option is outside what is accepted.
    """
    fields = RequestFields(values)
    model = fields.text("model", max_length=1024)
    conversation = take_messages(fields, settings, marker)
    tokens = _tokens(fields, "max_completion_tokens", "max_tokens") or settings.max_tokens
    likeliest = fields.optional_integer("top_logprobs", 0, LOGPROBS_MAX) or 0
    logprobs = likeliest if fields.flag("logprobs", default=False) else None
    if likeliest and logprobs is None:
        raise fields.fault("The field 'top_logprobs' needs 'logprobs': true.")
    request = _read_rest(
        fields, model, (conversation.messages,), tokens, settings, logprobs=logprobs
    )
    return replace(request, images=conversation.images)


def read_text_request(
    values: dict[str, Any], settings: ServerSettings, _marker: str | None = None
) -> GenerationRequest:
    """Read the body of a request to continue texts as they are; as `read_chat_request`."""
    fields = RequestFields(values)
    model = fields.text("model", max_length=1024)
    prompts = _prompts(fields, settings)
    tokens = _tokens(fields, "max_tokens") or TEXT_TOKENS
    logprobs = fields.optional_integer("logprobs", 0, LOGPROBS_MAX)
    return _read_rest(fields, model, prompts, tokens, settings, raw=True, logprobs=logprobs)


def _read_rest(
    fields: RequestFields,
    model: str,
    prompts: tuple[Prompt, ...],
    tokens: int,
    settings: ServerSettings,
    *,
    raw: bool = False,
    logprobs: int | None = None,
) -> GenerationRequest:
    options = GenerationOptions(
        max_tokens=min(tokens, settings.max_tokens),
        raw=raw,
        logprobs=logprobs,
        output_format=take_output_format(fields),
        **take_sampling(fields),
    )
    choices = fields.optional_integer("n", 1, settings.choices) or 1
    if choices * len(prompts) > settings.choices:
        raise fields.fault(
            f"The request asks for {choices} answers to each of {len(prompts)} prompts; accepted: "
            f"{settings.choices} answers in all."
        )
    stream = fields.flag("stream", default=False)
    request = GenerationRequest(
        model,
        prompts,
        options,
        choices=choices,
        stream=stream,
        include_usage=_include_usage(fields),
    )
    fields.refuse_absent()
    fields.nothing_else()
    return request


def _tokens(fields: RequestFields, *names: str) -> int | None:
    found = [fields.optional_integer(name, 1, 2**31 - 1) for name in names]
    return next((tokens for tokens in found if tokens is not None), None)


def _include_usage(fields: RequestFields) -> bool:
    if not fields.has("stream_options"):
        fields.take("stream_options")  # which makes it known
        return False
    options = fields.inner("stream_options")
    include = options.flag("include_usage", default=False)
    options.flag("include_obfuscation", default=False)
    options.nothing_else()
    return include


def _prompts(fields: RequestFields, settings: ServerSettings) -> tuple[str, ...]:
    given = fields.take("prompt")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise fields.fault("The field 'prompt' must be a string, or a list of strings.")
    if not all(isinstance(text, str) for text in texts):
        raise unsupported("prompt", "holds what is no string; token ids are not taken here.")
    if len(texts) > settings.choices:
        raise fields.fault(
            f"The field 'prompt' has {len(texts)} texts; accepted: up to {settings.choices}."
        )
    return tuple(texts)
