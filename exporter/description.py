"""What the manifest says of an export: tokens, sampling defaults, tokenizer probes, a chat sample.

The probes and the sample are made by the runtime's own tokenizer and template code, so that a
device that disagrees with the workstation finds out when it loads the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import tokenizers

from edgewise.exporter.checkpoint import Checkpoint, TokenizerFiles
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.probes import CHAT_MESSAGES, PROBE_TEXTS
from edgewise.exporter.targets import Target
from edgewise.runtime.bundle import (
    FORMAT_VERSION,
    SAMPLE_MOMENT,
    BundleFile,
    CacheLayout,
    ChatSample,
    Manifest,
    Origin,
    SamplingDefaults,
    SpecialTokens,
    TokenizerProbe,
)
from edgewise.runtime.chat import ChatTemplate, check_messages
from edgewise.runtime.tokenizer import Tokenizer

OLDEST_TOKENIZERS = "0.22"  # release that reads every tokenizer.json that is written here


def describe(
    checkpoint: Checkpoint, plan: ExportPlan, target: Target, files: tuple[BundleFile, ...]
) -> Manifest:
    """Make the manifest of an export that is not verified yet.

    Args:
        checkpoint: Where it came from.
        plan: What was done.
        target: What it was written by.
        files: The files of the bundle, measured.
    """
    configuration = plan.configuration
    tokens = special_tokens(checkpoint.tokenizer)
    origin = checkpoint.origin
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id=plan.model_id,
        architecture=plan.architecture,
        parameters=plan.parameters,
        family="decoder",
        tasks=("score",) if configuration.labels else ("generate",),
        runtime=plan.runtime,
        recipe=str(plan.recipe),
        formats=plan.formats,
        profile=plan.profile.qualified_name,
        origin=Origin(
            kind=origin.kind,
            name=origin.name,
            revision=origin.revision,
            file_type=origin.file_type,
            license=origin.license,
        ),
        context_length=plan.context_length,
        vocabulary_size=configuration.vocabulary_size,
        sampled_vocabulary=_sampled_vocabulary(checkpoint.tokenizer, configuration.vocabulary_size),
        cache=CacheLayout(
            layers=configuration.layers,
            key_value_heads=configuration.key_value_heads,
            head_size=configuration.head_size,
            dtype="float32",
            past_key_name=target.NAMES.past[0],
            past_value_name=target.NAMES.past[1],
            present_key_name=target.NAMES.present[0],
            present_value_name=target.NAMES.present[1],
        ),
        inputs=target.NAMES.inputs,
        outputs=target.NAMES.outputs,
        labels=configuration.labels,
        files=files,
        tokens=tokens,
        probes=(),
        chat=_chat_sample(checkpoint.tokenizer, tokens),
        defaults=sampling_defaults(checkpoint.generation),
        threads=plan.profile.threads,
        execution_providers=plan.profile.execution_providers,
        minimum_versions={**target.minimum_versions(plan), "tokenizers": OLDEST_TOKENIZERS},
        verification=None,
    )
    return replace(manifest, probes=_probes(checkpoint.tokenizer, manifest))


def _sampled_vocabulary(files: TokenizerFiles, vocabulary_size: int) -> int:
    """Return where the rows begin that pad a vocabulary to a size that suits a machine."""
    ids = tokenizers.Tokenizer.from_str(files.tokenizer_json).get_vocab(with_added_tokens=True)
    return min(max(ids.values(), default=0) + 1, vocabulary_size)


def special_tokens(files: TokenizerFiles) -> SpecialTokens:
    """Return the ids with a function."""
    return SpecialTokens(
        beginning=files.beginning_token_id,
        end=files.end_token_ids,
        padding=files.padding_token_id,
        add_beginning=files.add_beginning_token,
        beginning_text=files.beginning_token,
        end_text=files.end_token,
    )


def sampling_defaults(generation: Mapping[str, Any]) -> SamplingDefaults:
    """Read what a generation_config advises; without ``do_sample`` it advises greedy decoding."""
    penalty = generation.get("repetition_penalty")
    if not generation.get("do_sample"):
        return SamplingDefaults(repetition_penalty=penalty)
    return SamplingDefaults(
        temperature=generation.get("temperature", 1.0),
        top_k=generation.get("top_k"),
        top_p=generation.get("top_p"),
        min_p=generation.get("min_p"),
        repetition_penalty=penalty,
    )


def tokenizer_config(files: TokenizerFiles) -> bytes:
    """Return a tokenizer_config.json for programs that expect one beside tokenizer.json."""
    padding = files.end_token
    if files.padding_token_id is not None:
        tokenizer = tokenizers.Tokenizer.from_str(files.tokenizer_json)
        padding = tokenizer.id_to_token(files.padding_token_id)
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": files.add_beginning_token,
        "bos_token": files.beginning_token,
        "eos_token": files.end_token,
        "pad_token": padding,
        "clean_up_tokenization_spaces": False,
    }
    if files.chat_template is not None:
        config["chat_template"] = files.chat_template
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _probes(files: TokenizerFiles, manifest: Manifest) -> tuple[TokenizerProbe, ...]:
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(files.tokenizer_json), manifest)
    return tuple(TokenizerProbe(text, tuple(tokenizer.encode(text))) for text in PROBE_TEXTS)


def _chat_sample(files: TokenizerFiles, tokens: SpecialTokens) -> ChatSample | None:
    if files.chat_template is None:
        return None
    rendered = ChatTemplate(files.chat_template, tokens).render(
        check_messages(CHAT_MESSAGES), moment=datetime.fromisoformat(SAMPLE_MOMENT)
    )
    return ChatSample(CHAT_MESSAGES, rendered)
