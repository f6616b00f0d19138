"""Opens a Hugging Face folder: config.json, safetensors, tokenizer.json and their companions.

Workflow: read the configuration, find the weight files (one, or the shards of an index), map them,
read the tokenizer. Rules: pickle is never loaded; a file that is named but missing is an error that
says how to get it; the configuration comes out in one form whichever version wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgewise.exporter.checkpoint.base_model_names import with_base_prefix
from edgewise.exporter.checkpoint.checkpoint import Checkpoint, Origin
from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.huggingface_tokenizer import read_tokenizer
from edgewise.exporter.checkpoint.llava_names import with_parts_named
from edgewise.exporter.checkpoint.rotary_configuration import with_one_rotary_form
from edgewise.exporter.checkpoint.safetensors_file import SafetensorsTensor, open_safetensors
from edgewise.exporter.checkpoint.sentence_pooling import POOLING_FILE, sentence_pooling

JSON_LIMIT = 256 * 1024 * 1024  # bytes; far above any tokenizer.json
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
IMAGE_PROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # in which transformers 5 puts the former
HOW_TO_CONVERT = (
    "Pickle can run code while it is loaded, so Edgewise never loads it. Convert it elsewhere: "
    "`python -c \"import transformers as t; kind, = t.AutoConfig.from_pretrained('IN')"
    ".architectures; getattr(t, kind).from_pretrained('IN').save_pretrained('OUT')\"`, then give "
    "OUT with the tokenizer files beside it."
)
# What checkpoints from before PyTorch, BERT's own among them, call the parts of a norm.
OLD_NORM_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        CheckpointError: It is missing, too large, no JSON, or no object.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise CheckpointError(
                f"{path.name} has {path.stat().st_size} bytes; at most {JSON_LIMIT} are read."
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} can not be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is no valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} must hold a JSON object.")
    return content


def open_huggingface_folder(folder: Path, origin_name: str | None = None) -> Checkpoint:
    """Open a folder as ``save_pretrained`` writes it.

    Args:
        folder: The folder.
        origin_name: What the manifest calls it; the folder's own name if not given.

    Raises:
        CheckpointError: A file is missing or damaged, or of a kind that is not read.
    """
    config = _read_config(folder)
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.exists() else {}
    tokenizer = read_tokenizer(folder, config, generation)
    pooling_path = folder / POOLING_FILE
    pooling = sentence_pooling(read_json(pooling_path)) if pooling_path.is_file() else None
    image_path = folder / IMAGE_PROCESSOR
    image_processor = read_json(image_path) if image_path.is_file() else {}
    processor_path = folder / PROCESSOR
    if not image_processor and processor_path.is_file():
        image_processor = read_json(processor_path).get("image_processor") or {}
    with ExitStack() as opened:
        stored = _open_weights(folder, opened)
        current = {_current_name(name): tensor for name, tensor in stored.items()}
        tensors = with_base_prefix(current, config["model_type"])
        if config["model_type"] == "llava":
            tensors = with_parts_named(tensors)
        close = opened.pop_all().close
    return Checkpoint(
        origin=Origin(
            kind="folder",
            name=origin_name or folder.resolve().name,
            revision=None,
            file_type="safetensors",
            license=_license_of(folder),
        ),
        config=config,
        generation=generation,
        tensors=tensors,
        tokenizer=tokenizer,
        pooling=pooling,
        image_processor=image_processor,
        folder=folder,
        close=close,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no config.json; a Hugging Face folder holds config.json, "
            "*.safetensors, tokenizer.json and tokenizer_config.json."
        )
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{path.name} names no model_type, such as llama or qwen2.")
    if method := config.get("quantization_config"):
        name = method.get("quant_method", "unknown") if isinstance(method, Mapping) else method
        raise CheckpointError(
            f"The checkpoint is quantized already (method {name}); Edgewise quantizes itself. "
            "Give the unquantized checkpoint, or a GGUF file."
        )
    return with_one_rotary_form(config)


def _open_weights(folder: Path, opened: ExitStack) -> dict[str, SafetensorsTensor]:
    """Map the weight files; ``opened`` closes them."""
    if (folder / SINGLE).exists():
        return _open_one(folder / SINGLE, opened)
    if (folder / INDEX).exists():
        return _open_shards(folder, opened)
    candidates = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(candidates) == 1:
        return _open_one(folder / candidates[0], opened)
    if candidates:
        raise CheckpointError(
            f"{folder.name} has several safetensors files and no {INDEX} that says what is in "
            f"which: {listed(candidates)}."
        )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{folder.name} has its weights as pickle only ({listed(pickles)}). {HOW_TO_CONVERT}"
        )
    raise CheckpointError(f"{folder.name} has no weights: {SINGLE}, or shards with {INDEX}.")


def _open_one(path: Path, opened: ExitStack) -> dict[str, SafetensorsTensor]:
    file, tensors = open_safetensors(path)
    opened.callback(file.close)
    return tensors


def placed_tensors(index: dict[str, Any]) -> dict[str, str]:
    """Take the shard of each tensor from the content of ``model.safetensors.index.json``.

    Raises:
        CheckpointError: There is no weight_map, or it names what is no safetensors file beside it.
    """
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{INDEX} has no weight_map.")
    for name, shard in placed.items():
        # A name with a folder in it could point out of the checkpoint.
        if (
            not isinstance(shard, str)
            or not shard.endswith(".safetensors")
            or set(shard) & {*"/\\"}
        ):
            raise CheckpointError(
                f"{INDEX} places {name} in {shard!r}; a .safetensors file beside it is accepted."
            )
    return placed


def _open_shards(folder: Path, opened: ExitStack) -> dict[str, SafetensorsTensor]:
    placed = placed_tensors(read_json(folder / INDEX))
    missing = sorted({shard for shard in placed.values() if not (folder / shard).is_file()})
    if missing:
        raise CheckpointError(
            f"{folder.name} lacks {listed(missing)}, which {INDEX} names. Fetch them too."
        )
    shards = {shard: _open_one(folder / shard, opened) for shard in sorted(set(placed.values()))}
    lost = [f"{name} ({shard})" for name, shard in placed.items() if name not in shards[shard]]
    if lost:
        raise CheckpointError(f"{INDEX} names tensors that their shards lack: {listed(lost)}.")
    return {name: shards[shard][name] for name, shard in placed.items()}


def _current_name(name: str) -> str:
    for old, new in OLD_NORM_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _license_of(folder: Path) -> str | None:
    """Take the licence from the model card's front matter, if there is one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    front_matter = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = front_matter and re.search(
        r"^license:\s*[\"']?([\w.\-+]+)", front_matter[1], re.MULTILINE
    )
    return found[1] if found else None
