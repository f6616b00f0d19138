"""Real bundles with fake graphs, for tests of everything that uses a model.

Workflow: write one into a folder, give it to `edgewise.runtime.load` or the command line. Its
tokens are the 256 bytes and four special ones, so that every piece of text may be half a character.
- A decoder's chat template is ``<|role|>content<|end|>``; after ``<|assistant|>`` it gives a fixed
  reply.
- A vision-language model is such a decoder, with images among its tokens.
- An encoder-decoder gives a fixed reply to every source.
- An encoder answers every task with hashes of the text.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from edgewise.runtime.backends.fake import FakeGraph
from edgewise.runtime.backends.fake_encoder import FakeEncoderGraph
from edgewise.runtime.bundle import (
    FORMAT_VERSION,
    CacheLayout,
    ChatSample,
    ImageLayout,
    Manifest,
    Origin,
    SamplingDefaults,
    SpecialTokens,
    Task,
    TokenizerProbe,
    describe_file,
    write_manifest,
)

END, SYSTEM, USER, ASSISTANT = range(4)  # token ids; the bytes follow
SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")  # of a decoder
START = 1  # of an encoder-decoder, whose END is the decoder's
SEQUENCE_TOKENS = ("</s>", "<pad>", "<extra_0>", "<extra_1>")
PAD, CLS, SEP, MASK = range(4)  # of an encoder
ENCODER_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
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
    stop: tuple[str, ...] = (),
    sampled_vocabulary: int | None = None,
    image: ImageLayout | None = None,
    scores: tuple[str, ...] = (),
) -> Path:
    """Write the bundle of a decoder.

    Args:
        folder: Where to write; made if it is not there.
        reply: What follows every chat prompt; one token a UTF-8 byte, then the end token.
        seed: Of the hash that gives all other logits.
        context_length: Tokens.
        step_seconds: How long each step of the engine takes.
        chat: Whether the bundle has a chat template.
        defaults: The sampling that the bundle advises.
        stop: The stop texts of its prompt format.
        sampled_vocabulary: Ids from here on are padding rows; None: there are none.
        image: How it reads images, which makes it a vision-language model; None: not at all.
        scores: Labels of a scoring head in place of words.

    Returns:
        The folder.
    """
    tokenizer = byte_tokenizer(SPECIAL_TOKENS)
    # A scoring head has no token that could reply.
    reply_ids = [] if scores else tokenizer.encode(reply, add_special_tokens=False).ids
    files = {}
    if chat:
        files["chat_template"] = ("chat_template.jinja", CHAT_TEMPLATE)
    family = "decoder" if image is None else "vision_language"
    return _write(
        folder,
        tokenizer,
        FakeGraph(seed, (*reply_ids, END), None if scores else ASSISTANT, step_seconds),
        files,
        family=family,
        tasks=("score",) if scores else ("generate",),
        labels=scores,
        image=image,
        context_length=context_length,
        cache=CacheLayout(1, 1, 1, "float32"),
        tokens=SpecialTokens(
            beginning=None,
            end=(END,),
            padding=None,
            add_beginning=False,
            beginning_text=None,
            end_text=SPECIAL_TOKENS[END],
        ),
        chat=ChatSample(({"role": "user", "content": "Hi"},), "<|user|>Hi<|end|><|assistant|>")
        if chat
        else None,
        defaults=SamplingDefaults() if defaults is None else defaults,
        stop=stop,
        sampled_vocabulary=sampled_vocabulary,
    )


def write_fake_vision_bundle(
    folder: Path,
    *,
    reply: str = "A red fox in the snow 🙂.",
    size: int = 4,
    image_tokens: int = 5,
    context_length: int = 256,
    chat: bool = True,
) -> Path:
    """Write the bundle of a vision-language model.

    Args:
        folder: Where to write; made if it is not there.
        reply: What follows every chat prompt.
        size: Pixels of an image's sides, as it is computed.
        image_tokens: Tokens of an image.
        context_length: Tokens of text and images.
        chat: Whether the bundle has a chat template.

    Returns:
        The folder.
    """
    half = (0.5, 0.5, 0.5)
    return write_fake_bundle(
        folder,
        reply=reply,
        context_length=context_length,
        chat=chat,
        image=ImageLayout(size, half, half, "mean", tokens=image_tokens),
    )


def write_fake_sequence_bundle(
    folder: Path,
    *,
    reply: str = "Paris est la capitale de la France 🙂.",
    seed: int = 0,
    context_length: int = 64,
    source_length: int = 128,
    step_seconds: float = 0.0,
    stop: tuple[str, ...] = (),
    prefixes: Mapping[str, str] | None = None,
) -> Path:
    """Write the bundle of an encoder-decoder.

    Args:
        folder: Where to write; made if it is not there.
        reply: The answer to every source; one token a UTF-8 byte, then the end token. Without one,
            answers come from the hash of source and answer so far.
        seed: Of that hash.
        context_length: Tokens of an answer.
        source_length: Tokens of a source.
        step_seconds: How long each step of the engine takes.
        stop: The stop texts of its prompt format.
        prefixes: What a text begins with, by the name of its task.

    Returns:
        The folder.
    """
    tokenizer = byte_tokenizer(SEQUENCE_TOKENS)
    reply_ids = tokenizer.encode(reply, add_special_tokens=False).ids
    return _write(
        folder,
        tokenizer,
        FakeGraph(seed, (*reply_ids, END), START if reply else None, step_seconds),
        {"encoder": ("encoder.json", "{}")},
        family="encoder_decoder",
        context_length=context_length,
        source_length=source_length,
        cache=CacheLayout(1, 1, 1, "float32"),
        tokens=SpecialTokens(
            beginning=None,
            end=(END,),
            padding=START,
            add_beginning=False,
            beginning_text=None,
            end_text=None,
            start=START,
        ),
        stop=stop,
        prefixes=prefixes or {},
    )


def write_fake_encoder_bundle(
    folder: Path,
    *,
    tasks: tuple[Task, ...] = ("fill-mask", "embed"),
    labels: tuple[str, ...] = (),
    pooling: Literal["mean", "first"] = "mean",
    features: int = 8,
    sampled_vocabulary: int | None = None,
    seed: int = 0,
    context_length: int = 64,
    step_seconds: float = 0.0,
) -> Path:
    """Write the bundle of an encoder.

    Args:
        folder: Where to write; made if it is not there.
        tasks: What it can do; "fill-mask", "classify" and "token-classify" exclude each other.
        labels: Of "classify" and "token-classify".
        pooling: Of "embed".
        features: Length of a vector.
        sampled_vocabulary: Ids from here on are padding rows; None: there are none.
        seed: Of the hash that gives all numbers.
        context_length: Tokens of a text.
        step_seconds: How long each call of the engine takes.

    Returns:
        The folder.
    """
    tokenizer = byte_tokenizer(ENCODER_TOKENS)
    outputs = ("hidden_states", "mean") if "embed" in tasks else ()
    if tasks != ("embed",):
        outputs = ("logits", *outputs)
    graph = FakeEncoderGraph(
        outputs=outputs,
        features=features,
        logits=len(labels) or tokenizer.get_vocab_size(),
        every_token="classify" not in tasks,
        seed=seed,
        step_seconds=step_seconds,
    )
    return _write(
        folder,
        tokenizer,
        graph,
        {},
        family="encoder",
        tasks=tasks,
        context_length=context_length,
        cache=None,
        outputs=outputs,
        labels=labels,
        sampled_vocabulary=sampled_vocabulary,
        pooling=pooling if "embed" in tasks else None,
        tokens=SpecialTokens(
            beginning=CLS,
            end=(),
            padding=PAD,
            add_beginning=False,
            beginning_text=None,
            end_text=None,
            mask=MASK,
            separator=SEP,
        ),
    )


def byte_tokenizer(special_tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """Make a tokenizer whose first ids are special tokens, and the others the 256 bytes."""
    names = [*special_tokens, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: token_id for token_id, name in enumerate(names)}
    result = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens(list(special_tokens))
    return result


def _write(
    folder: Path,
    tokenizer: tokenizers.Tokenizer,
    graph: FakeGraph | FakeEncoderGraph,
    more_files: Mapping[str, tuple[str, str]],
    **fields: Any,
) -> Path:
    """Write files and manifest; ``fields`` are those in which bundles differ."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {"graph": ("graph.json", json.dumps(dataclasses.asdict(graph))), **more_files}
    for name, content in files.values():
        (folder / name).write_text(content)
    paths = {role: name for role, (name, _) in files.items()} | {"tokenizer": "tokenizer.json"}
    probe = f"Zürich {tokenizer.id_to_token(0)}"
    size = tokenizer.get_vocab_size()
    given: dict[str, Any] = {
        "family": "decoder",
        "tasks": ("generate",),
        "inputs": ("input_ids",),
        "outputs": ("logits",),
        "chat": None,
        "defaults": SamplingDefaults(),
        **fields,
    }
    if given.get("sampled_vocabulary") is None:
        given["sampled_vocabulary"] = size
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id="fake",
        architecture="fake",
        parameters=1,
        runtime="fake",
        recipe="fp32",
        formats={},
        profile="x86_64",
        origin=Origin("folder", "fake", None, "safetensors", None),
        vocabulary_size=size,
        files=tuple(describe_file(folder, role, path) for role, path in paths.items()),
        probes=(
            TokenizerProbe(probe, tuple(tokenizer.encode(probe, add_special_tokens=False).ids)),
        ),
        threads=1,
        execution_providers=(),
        minimum_versions={"tokenizers": "0.21"},
        verification=None,
        **given,
    )
    write_manifest(folder, manifest)
    return folder
