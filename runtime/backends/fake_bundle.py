"""A real bundle with a fake graph, for tests of everything that uses a model.

Workflow: `write_fake_bundle` a folder, give it to `edgewise.runtime.load` or the command line. Its
tokens are the 256 bytes and four special ones, so that every piece of text may be half a character;
its chat template is ``<|role|>content<|end|>``; after ``<|assistant|>`` it gives a fixed reply.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from edgewise.runtime.backends.fake import FakeGraph
from edgewise.runtime.bundle import (
    FORMAT_VERSION,
    CacheLayout,
    ChatSample,
    Manifest,
    Origin,
    SamplingDefaults,
    SpecialTokens,
    TokenizerProbe,
    describe_file,
    write_manifest,
)

END, SYSTEM, USER, ASSISTANT = range(4)  # token ids; the bytes follow
SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_fake_bundle(
    folder: Path,
    *,
    reply: str = "The capital of France is Paris 🙂.",
    seed: int = 0,
    context_length: int = 256,
    step_seconds: float = 0.0,
    chat: bool = True,
    defaults: SamplingDefaults | None = None,
) -> Path:
    """Write a bundle that `edgewise.runtime.load` loads.

    Args:
        folder: Where to write; made if it is not there.
        reply: What follows every chat prompt; one token a UTF-8 byte, then the end token.
        seed: Of the hash that gives all other logits.
        context_length: Tokens.
        step_seconds: How long each step of the engine takes.
        chat: Whether the bundle has a chat template.
        defaults: The sampling that the bundle advises.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    reply_ids = tokenizer.encode(reply, add_special_tokens=False).ids
    graph = FakeGraph(seed, (*reply_ids, END), ASSISTANT, step_seconds)
    (folder / "graph.json").write_text(json.dumps(dataclasses.asdict(graph)))
    files = [("graph", "graph.json"), ("tokenizer", "tokenizer.json")]
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        files.append(("chat_template", "chat_template.jinja"))
    probe = "Zürich <|end|>"
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id="fake",
        architecture="fake",
        parameters=1,
        family="decoder",
        tasks=("generate",),
        runtime="fake",
        recipe="fp32",
        formats={},
        profile="x86_64",
        origin=Origin("folder", "fake", None, "safetensors", None),
        context_length=context_length,
        vocabulary_size=tokenizer.get_vocab_size(),
        sampled_vocabulary=tokenizer.get_vocab_size(),
        cache=CacheLayout(1, 1, 1, "float32"),
        inputs=("input_ids",),
        outputs=("logits",),
        files=tuple(describe_file(folder, role, path) for role, path in files),
        tokens=SpecialTokens(
            beginning=None,
            end=(END,),
            padding=None,
            add_beginning=False,
            beginning_text=None,
            end_text=SPECIAL_TOKENS[END],
        ),
        probes=(
            TokenizerProbe(probe, tuple(tokenizer.encode(probe, add_special_tokens=False).ids)),
        ),
        chat=ChatSample(({"role": "user", "content": "Hi"},), "<|user|>Hi<|end|><|assistant|>")
        if chat
        else None,
        defaults=SamplingDefaults() if defaults is None else defaults,
        threads=1,
        execution_providers=(),
        minimum_versions={"tokenizers": "0.21"},
        verification=None,
    )
    write_manifest(folder, manifest)
    return folder


def _tokenizer() -> tokenizers.Tokenizer:
    names = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: token_id for token_id, name in enumerate(names)}
    result = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens(list(SPECIAL_TOKENS))
    return result
