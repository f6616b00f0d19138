"""Opens a GGUF file as if it were a Hugging Face folder.

Workflow: map the file, read its header, find the architecture, rebuild configuration and tokenizer,
and name each tensor as Hugging Face does. Rules: an architecture or a tensor that is not in the
tables is refused by name; nothing is decoded before it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewise.exporter.checkpoint.checkpoint import Checkpoint, Origin
from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.gguf_architectures import ARCHITECTURES, GgufArchitecture
from edgewise.exporter.checkpoint.gguf_blocks import gguf_package
from edgewise.exporter.checkpoint.gguf_configuration import (
    rebuild_configuration,
    rebuild_generation,
)
from edgewise.exporter.checkpoint.gguf_fields import GgufFields
from edgewise.exporter.checkpoint.gguf_header import GgufHeader, TensorEntry, read_header
from edgewise.exporter.checkpoint.gguf_tensors import GgufTensor
from edgewise.exporter.checkpoint.gguf_tokenizer import rebuild_tokenizer
from edgewise.exporter.checkpoint.llama3_rotary import llama3_scaling
from edgewise.exporter.checkpoint.mapped_file import MappedFile

ROTARY_FACTORS = "rope_freqs.weight"
LONG_ROTARY_FACTORS = {
    "rope_factors_short.weight": "short_factor",
    "rope_factors_long.weight": "long_factor",
}
_IN_LAYER = re.compile(r"blk\.(\d+)\.([a-z0-9_]+)\.(weight|bias)")
_OUTSIDE = re.compile(r"([a-z0-9_]+)\.(weight|bias)")


def open_gguf_file(path: Path, origin_name: str | None = None) -> Checkpoint:
    """Open a GGUF file.

    Args:
        path: The file.
        origin_name: What the manifest calls it; the file's own name if not given.

    Raises:
        CheckpointError: The file is missing or damaged, or of a kind that is not read.
    """
    gguf_package()  # needed for the first tensor; better missed now than then
    file = MappedFile(path)
    try:
        return _open(file, origin_name or path.name)
    except BaseException:
        file.close()
        raise


def _open(file: MappedFile, origin_name: str) -> Checkpoint:
    header = read_header(file)
    fields = GgufFields(header.fields, file.path.name)
    architecture = _architecture_of(fields)
    config = rebuild_configuration(fields, architecture, header.tensors)
    tensors, rotary_factors = _named_tensors(file, header, architecture, config)
    if ROTARY_FACTORS in rotary_factors:
        factors = rotary_factors[ROTARY_FACTORS]
        config["rope_scaling"] = _scaling_from(factors, config["rope_theta"])
    elif rotary_factors:
        config["rope_scaling"] = _long_scaling(fields, architecture, rotary_factors)
    tokenizer = rebuild_tokenizer(fields, config["vocab_size"])
    return Checkpoint(
        origin=Origin(
            kind="gguf",
            name=origin_name,
            revision=None,
            file_type="gguf",
            license=fields.text("general.license"),
        ),
        config=config,
        generation=rebuild_generation(fields, tokenizer.end_token_ids),
        tensors=tensors,
        tokenizer=tokenizer,
        close=file.close,
    )


def _architecture_of(fields: GgufFields) -> GgufArchitecture:
    parts = fields.integer("split.count")
    if parts is not None and parts > 1:
        raise CheckpointError(
            f"{fields.file_name} is one of {parts} parts; join them first with "
            "`llama-gguf-split --merge FIRST_PART WHOLE` and give the whole."
        )
    name = fields.text("general.architecture")
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{fields.file_name} is of the architecture {name!r}; from GGUF are read: "
            f"{', '.join(sorted(ARCHITECTURES))}. Others may be read from a Hugging Face folder."
        )
    return ARCHITECTURES[name]


def _huggingface_name(name: str, architecture: GgufArchitecture) -> tuple[str, bool] | None:
    """Return Hugging Face's name and whether the rows stand in llama.cpp's order."""
    if match := _IN_LAYER.fullmatch(name):
        layer, part, kind = match.groups()
        known = architecture.layer_names.get(part)
        rotated = part in architecture.rotated
        return (f"{architecture.layers}.{layer}.{known}.{kind}", rotated) if known else None
    if match := _OUTSIDE.fullmatch(name):
        known = architecture.outer_names.get(match[1])
        return (f"{known}.{match[2]}", False) if known else None
    return None


def _named_tensors(
    file: MappedFile,
    header: GgufHeader,
    architecture: GgufArchitecture,
    config: Mapping[str, Any],
) -> tuple[dict[str, GgufTensor], dict[str, GgufTensor]]:
    """Return the tensors by Hugging Face's names, and rotary factors by GGUF's."""
    tensors: dict[str, GgufTensor] = {}
    rotary_factors: dict[str, GgufTensor] = {}
    unknown = []
    for entry in header.tensors.values():
        if entry.name in (ROTARY_FACTORS, *LONG_ROTARY_FACTORS):
            rotary_factors[entry.name] = _tensor(file, entry, entry.name, None)
            continue
        if parts := _unpacked(file, entry, architecture, config):
            tensors |= {part.name: part for part in parts}
            continue
        named = _huggingface_name(entry.name, architecture)
        if not named:
            unknown.append(entry.name)
            continue
        name, rotated = named
        head_size = _head_size(config) if rotated else 1
        if entry.shape[0] % head_size:
            raise CheckpointError(
                f"{file.path.name}: tensor {entry.name} has {entry.shape[0]} rows, "
                f"no whole number of heads of {head_size}."
            )
        tensors[name] = _tensor(file, entry, name, head_size if rotated else None)
    if unknown:
        raise CheckpointError(
            f"{file.path.name} has tensors that the architecture {architecture.name} does not "
            f"know: {listed(unknown)}."
        )
    return tensors, rotary_factors


def _unpacked(
    file: MappedFile, entry: TensorEntry, architecture: GgufArchitecture, config: Mapping[str, Any]
) -> list[GgufTensor]:
    """Return queries, keys and values apart where one tensor holds all three, else nothing."""
    match = _IN_LAYER.fullmatch(entry.name)
    names = architecture.packed.get(match[2]) if match else None
    if match is None or names is None:
        return []
    head_size = _head_size(config)
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    counts = [head_size * count for count in (heads, groups, groups)]
    if entry.shape[0] != sum(counts):
        raise CheckpointError(
            f"{file.path.name}: tensor {entry.name} has {entry.shape[0]} rows, not the "
            f"{sum(counts)} of queries, keys and values."
        )
    whole = _tensor(file, entry, entry.name, None)
    ends = [sum(counts[: index + 1]) for index in range(3)]
    return [
        whole.rows(f"{architecture.layers}.{match[1]}.{name}.{match[3]}", end - count, end)
        for name, count, end in zip(names, counts, ends, strict=True)
    ]


def _head_size(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _tensor(
    file: MappedFile, entry: TensorEntry, name: str, rotated_head_size: int | None
) -> GgufTensor:
    return GgufTensor(name, entry.shape, entry.block, file, entry.offset, rotated_head_size)


def _scaling_from(rotary_factors: GgufTensor, theta: float) -> dict[str, Any] | None:
    factors = rotary_factors.read().reshape(-1)
    if (factors == 1.0).all():
        return None
    scaling = llama3_scaling(factors, theta)
    if scaling is None:
        raise CheckpointError(
            f"{rotary_factors.file.path.name} scales the rotary frequencies ({ROTARY_FACTORS}) in "
            "another way than llama 3 does. Give the Hugging Face folder instead."
        )
    return scaling


def _long_scaling(
    fields: GgufFields, architecture: GgufArchitecture, factors: Mapping[str, GgufTensor]
) -> dict[str, Any]:
    """Return the rotary scaling of a long-context file, which has factors for both lengths."""
    if missing := sorted(set(LONG_ROTARY_FACTORS) - set(factors)):
        raise CheckpointError(f"{fields.file_name} lacks {listed(missing)}.")
    scaling: dict[str, Any] = {
        LONG_ROTARY_FACTORS[name]: tensor.read().reshape(-1).tolist()
        for name, tensor in factors.items()
    }
    original = f"{architecture.name}.rope.scaling.original_context_length"
    scaling["original_max_position_embeddings"] = fields.required(
        fields.integer(original), original
    )
    factor = fields.number(f"{architecture.name}.rope.scaling.attn_factor")
    if factor is not None:
        scaling["attention_factor"] = factor
    return {"rope_type": "longrope", **scaling}
