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

from edgewise.exporter.abilities import abilities_of, task_prefixes
from edgewise.exporter.checkpoint import Checkpoint, TokenizerFiles
from edgewise.exporter.image_processing import image_layout
from edgewise.exporter.models.encoder_decoder import EncoderDecoderConfiguration
from edgewise.exporter.models.vision_language import VisionLanguageConfiguration
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.probes import CHAT_MESSAGES, probe_texts
from edgewise.exporter.targets import GraphNames, Target
from edgewise.runtime.bundle import (
    FORMAT_VERSION,
    SAMPLE_MOMENT,
    BundleFile,
    CacheLayout,
    Calibration,
    ChatSample,
    ImageLayout,
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
    checkpoint: Checkpoint,
    plan: ExportPlan,
    target: Target,
    files: tuple[BundleFile, ...],
    calibration: Calibration | None = None,
) -> Manifest:
    """Make the manifest of an export that is not verified yet.

    Args:
        checkpoint: Where it came from.
        plan: What was done.
        target: What it was written by.
        files: The files of the bundle, measured.
        calibration: How a text decided the rounding of weights.
    """
    vocabulary_size = plan.configuration.vocabulary_size
    tokens = _with_forced(special_tokens(checkpoint.tokenizer, plan), checkpoint, plan)
    origin = checkpoint.origin
    names = target.names(plan, checkpoint)
    abilities = abilities_of(plan, checkpoint, names.outputs)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id=plan.model_id,
        architecture=plan.architecture,
        parameters=plan.parameters,
        family=plan.family,
        tasks=abilities.tasks,
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
        source_length=plan.source_length,
        vocabulary_size=vocabulary_size,
        sampled_vocabulary=_sampled_vocabulary(checkpoint.tokenizer, vocabulary_size),
        cache=_cache_layout(plan, names),
        inputs=names.inputs,
        outputs=names.outputs,
        labels=abilities.labels,
        pooling=abilities.pooling,
        image=_image_layout(checkpoint, plan),
        files=files,
        tokens=tokens,
        probes=(),
        prefixes=task_prefixes(plan, checkpoint),
        stop=checkpoint.tokenizer.stop,
        chat=_chat_sample(checkpoint.tokenizer, tokens),
        defaults=sampling_defaults(checkpoint.generation),
        threads=plan.profile.threads,
        execution_providers=plan.profile.execution_providers,
        minimum_versions={**target.minimum_versions(plan), "tokenizers": OLDEST_TOKENIZERS},
        verification=None,
        calibration=calibration,
    )
    return replace(manifest, probes=_probes(checkpoint.tokenizer, manifest))


def _sampled_vocabulary(files: TokenizerFiles, vocabulary_size: int) -> int:
    """Return where the rows begin that pad a vocabulary to a size that suits a machine.

    A family's rule may say that its tokenizer has more ids than the model was trained with.
    """
    ids = tokenizers.Tokenizer.from_str(files.tokenizer_json).get_vocab(with_added_tokens=True)
    known = max(ids.values(), default=0) + 1
    return min(known, vocabulary_size, files.sampled_vocabulary or vocabulary_size)


def _cache_layout(plan: ExportPlan, names: GraphNames) -> CacheLayout | None:
    if plan.cache is None:
        return None
    return CacheLayout(
        layers=plan.cache.layers,
        key_value_heads=plan.cache.key_value_heads,
        head_size=plan.cache.head_size,
        dtype=plan.cache.dtype,
        past_key_name=names.past[0],
        past_value_name=names.past[1],
        present_key_name=names.present[0],
        present_value_name=names.present[1],
        update=names.update,
    )


def _image_layout(checkpoint: Checkpoint, plan: ExportPlan) -> ImageLayout | None:
    if not isinstance(plan.configuration, VisionLanguageConfiguration):
        return None
    c = plan.configuration
    return image_layout(checkpoint.image_processor, c.vision, cuts=c.cuts_images)


def _with_forced(tokens: SpecialTokens, checkpoint: Checkpoint, plan: ExportPlan) -> SpecialTokens:
    """Add the ids that every answer has; a generation_config's word counts before a config's."""
    c = plan.configuration
    if not isinstance(c, EncoderDecoderConfiguration):
        return tokens
    generation = checkpoint.generation
    return replace(
        tokens,
        start=generation.get("decoder_start_token_id", c.start_token_id),
        forced_first=generation.get("forced_bos_token_id", c.forced_first_token_id),
        forced_last=generation.get("forced_eos_token_id", c.forced_last_token_id),
    )


def special_tokens(files: TokenizerFiles, plan: ExportPlan) -> SpecialTokens:
    """Return the ids with a function.

    Args:
        files: The checkpoint's tokenizer.
        plan: What is exported: an encoder has tokens around texts, an encoder-decoder one to start.
    """
    configuration = plan.configuration
    is_encoder = plan.family == "encoder"
    return SpecialTokens(
        beginning=files.beginning_token_id,
        end=files.end_token_ids,
        padding=files.padding_token_id,
        add_beginning=files.add_beginning_token,
        beginning_text=files.beginning_token,
        end_text=files.end_token,
        start=configuration.start_token_id
        if isinstance(configuration, EncoderDecoderConfiguration)
        else None,
        mask=files.mask_token_id if is_encoder else None,
        separator=files.separator_token_id if is_encoder else None,
        separators_between=max(1, files.separators_between),
        ends_source=files.ends_source,
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
    inner = tokenizers.Tokenizer.from_str(files.tokenizer_json)
    named = (*files.end_token_ids, files.mask_token_id, files.separator_token_id)
    added = inner.get_added_tokens_decoder()
    special = [added[token].content for token in named if token in added and added[token].special]
    tokenizer = Tokenizer(inner, manifest)
    return tuple(
        TokenizerProbe(text, tuple(tokenizer.encode(text))) for text in probe_texts(special)
    )


def _chat_sample(files: TokenizerFiles, tokens: SpecialTokens) -> ChatSample | None:
    if files.chat_template is None:
        return None
    messages = check_messages(CHAT_MESSAGES)
    if files.chat_sample is not None:
        messages = ({"role": "user", "content": files.chat_sample},)
    rendered = ChatTemplate(files.chat_template, tokens).render(
        messages, moment=datetime.fromisoformat(SAMPLE_MOMENT)
    )
    return ChatSample(messages, rendered)
