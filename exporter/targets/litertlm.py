"""The litertlm target: model.litertlm, which LiteRT-LM runs on Android and elsewhere by itself.

Workflow: the graphs and the weights are written as a .tflite, then packed with tokenizer, template
and what LiteRT-LM has to know of tokens and caches; the .tflite stays beside it until the export is
verified. The container is written by Google's own litert-lm-builder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from litert_lm_builder import litertlm_builder
from litert_lm_builder.runtime.proto import executor_metadata_pb2, llm_metadata_pb2

from edgewise.common.version import VERSION
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_litertlm import (
    INPUTS,
    KEY_CACHE,
    SIGNATURE_TOKENS,
    VALUE_CACHE,
    LitertLmBuilder,
)
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import GraphNames, Loaded, Progress
from edgewise.runtime.bundle import Bundle

GRAPH_FILE = "model.litertlm"
UNPACKED_FILE = "unpacked.tflite"  # until the export is verified
# LiteRT-LM gives a message's content as a list of parts, while templates expect a text.
CONTENT_AS_TEXT = """\
{%- set plain = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set plain.messages = plain.messages + [message] -%}
{%- else -%}
{%- set text = message['content'] | map(attribute='text') | join('') -%}
{%- set plain.messages = plain.messages + [{'role': message['role'], 'content': text}] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = plain.messages -%}
"""
_Type = executor_metadata_pb2.StateBuffer


def files(plan: ExportPlan) -> tuple[tuple[str, str], ...]:
    """Return the container."""
    del plan
    return (("graph", GRAPH_FILE),)


def names(plan: ExportPlan, checkpoint: Checkpoint) -> GraphNames:
    """Return what LiteRT-LM binds: a cache is one buffer, input and output."""
    outputs = plan.outline("forward", checkpoint).outputs
    cache = (KEY_CACHE, VALUE_CACHE)
    return GraphNames(INPUTS, tuple(outputs), cache, cache)


def minimum_versions(plan: ExportPlan) -> Mapping[str, str]:
    """Return nothing: what runs this is no Python package."""
    del plan
    return {}


def build(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress) -> None:
    """Write the model and pack it."""
    model = TfliteFile()
    weights = WeightStore(model, plan.recipe)
    for tokens in SIGNATURE_TOKENS:
        builder = LitertLmBuilder(model, weights, tokens, plan.context_length)
        plan.describe("forward", builder, checkpoint)
        builder.finish()
    model.add_metadata("edgewise", VERSION)
    unpacked = folder / UNPACKED_FILE
    model.write(unpacked, lambda done, total: progress("export", done, total))
    _pack(checkpoint, plan, unpacked, folder / GRAPH_FILE)


def texts(checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
    """Return nothing: the container holds all."""
    del checkpoint, plan
    return {}


def load(bundle: Bundle, *, threads: int, capacity: int) -> Loaded:
    """Load the model that is not packed yet."""
    from edgewise.runtime.backends.litert_lm import LitertLmBackend  # noqa: PLC0415 - loads LiteRT

    return LitertLmBackend(
        bundle.path / UNPACKED_FILE, bundle.manifest, threads=threads, capacity=capacity
    )


def finish(folder: Path) -> None:
    """Remove what verification alone needed."""
    (folder / UNPACKED_FILE).unlink()


def _pack(checkpoint: Checkpoint, plan: ExportPlan, model: Path, target: Path) -> None:
    """Write the container; sections are copied as streams."""
    tokenizer, metadata, executor = (
        target.with_name(name) for name in ("packed.json", "packed.llm", "packed.executor")
    )
    tokenizer.write_text(checkpoint.tokenizer.tokenizer_json, encoding="utf-8")
    metadata.write_bytes(_llm_metadata(checkpoint, plan).SerializeToString())
    executor.write_bytes(_executor_metadata(plan).SerializeToString())
    builder = litertlm_builder.LitertLmFileBuilder()
    builder.add_system_metadata(
        litertlm_builder.Metadata("Authors", f"Edgewise {VERSION}", litertlm_builder.DType.STRING)
    )
    builder.add_llm_metadata(str(metadata))
    builder.add_executor_metadata(str(executor))
    builder.add_hf_tokenizer(str(tokenizer))
    builder.add_tflite_model(str(model), litertlm_builder.TfLiteModelType.PREFILL_DECODE)
    with target.open("wb") as stream:
        builder.build(stream)
    for path in (tokenizer, metadata, executor):
        path.unlink()


def _llm_metadata(checkpoint: Checkpoint, plan: ExportPlan) -> llm_metadata_pb2.LlmMetadata:
    files = checkpoint.tokenizer
    metadata = llm_metadata_pb2.LlmMetadata(max_num_tokens=plan.context_length)
    metadata.llm_model_type.generic_model.SetInParent()
    for token in files.end_token_ids:
        metadata.stop_tokens.add().token_ids.ids.append(token)
    if files.add_beginning_token and files.beginning_token_id is not None:
        metadata.start_token.token_ids.ids.append(files.beginning_token_id)
    if files.chat_template is not None:
        metadata.jinja_prompt_template = CONTENT_AS_TEXT + files.chat_template
    return metadata


def _executor_metadata(plan: ExportPlan) -> executor_metadata_pb2.ExecutorMetadata:
    metadata = executor_metadata_pb2.ExecutorMetadata()
    llm = metadata.llm_executor_metadata
    llm.max_history_size = plan.context_length
    for layer in range(plan.cache.layers if plan.cache else 0):
        for template, kind, axis in (
            (KEY_CACHE, _Type.TYPE_GLOBAL_KEY_CACHE, 2),
            (VALUE_CACHE, _Type.TYPE_GLOBAL_VALUE_CACHE, 3),
        ):
            name = template.format(layer=layer)
            llm.state_buffers.add(
                prefill_input_name=name,
                prefill_output_name=name,
                decode_input_name=name,
                decode_output_name=name,
                type=kind,
                sequence_axis=axis,
            )
    return metadata
