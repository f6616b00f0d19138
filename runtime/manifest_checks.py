"""What the fields of a manifest must have to do with each other.

Every fault is a clause of its own, so that one error can list them all. What a family needs and
what a task needs are tables; a new task is a line in each.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edgewise.runtime.manifest_versions import FORMAT_VERSION
from edgewise.runtime.options import GenerationOptions, OptionsError

if TYPE_CHECKING:
    from edgewise.runtime.manifest import BundleFile, CacheLayout, Manifest

CACHE_AXES = ("batch", "key_value_head", "position", "head_size")
FILE_ROLES = (
    "graph",
    "weights",
    "tokenizer",
    "tokenizer_config",
    "chat_template",
    "genai_config",
    "encoder",  # of an encoder-decoder, whose decoder is "graph"; both read "weights"
    "vision",  # from an image to the vectors that stand for it in a prompt
    "token_embedding",  # from token ids to vectors, for a "graph" that takes vectors
)
REQUIRED_ROLES: tuple[str, ...] = ("graph", "tokenizer")
# A .tflite file holds all graphs of its model, an .onnx file one.
FAMILY_ROLES_OF_ONNX: Mapping[str, tuple[str, ...]] = {
    "encoder_decoder": ("encoder",),
    "vision_language": ("vision", "token_embedding"),
}
FAMILY_TASKS: Mapping[str, tuple[str, ...]] = {
    "decoder": ("generate", "score"),
    "encoder": ("fill-mask", "classify", "token-classify", "embed"),
    "encoder_decoder": ("generate",),
    "vision_language": ("generate",),
}
CONCATENATING = ("decoder for onnx", "encoder_decoder for onnx")  # update their cache by copying
TASKS_WITH_LABELS = ("classify", "token-classify", "score")
TASKS_WITH_LOGITS = ("generate", "fill-mask", *TASKS_WITH_LABELS)
LOGITS = "logits"
POOLED_OUTPUTS: Mapping[str, str] = {"mean": "mean", "first": "hidden_states"}


def is_safe_path(path: str) -> bool:
    """Tell whether a path is relative, in normal form, and stays below the folder it starts in."""
    parts = path.split("/")
    return (
        not any(part in {"", ".", ".."} for part in parts)
        and not re.search(r"[\x00-\x1f\\:]", path)
        and path != "manifest.json"
    )


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Give every fault of a manifest whose fields have the right types."""
    if manifest.format_version != FORMAT_VERSION:
        yield f"format_version is {manifest.format_version}, accepted: {FORMAT_VERSION}"
    for name in ("parameters", "context_length", "vocabulary_size", "threads"):
        yield from _below_one(name, getattr(manifest, name))
    for name in ("model_id", "architecture", "recipe", "profile"):
        if not getattr(manifest, name):
            yield f"{name} is empty"
    for name in ("inputs", "outputs"):
        given = getattr(manifest, name)
        if not given or len(set(given)) != len(given):
            yield f"{name} must hold at least one name, each once"
    yield from _family_faults(manifest)
    yield from _task_faults(manifest)
    if manifest.cache is not None:
        yield from _cache_faults(manifest.cache)
        kind = f"{manifest.family} for {manifest.runtime}"
        if manifest.cache.update == "concatenated" and kind not in CONCATENATING:
            yield f"cache.update is concatenated, which no {kind} does; accepted: in_place"
    yield from _image_faults(manifest)
    yield from _file_faults(manifest)
    yield from _token_faults(manifest)
    yield from _generation_faults(manifest)


def _below_one(name: str, count: int) -> Iterator[str]:
    if count < 1:
        yield f"{name} is {count}, it must be at least 1"


def _family_faults(manifest: Manifest) -> Iterator[str]:
    family = manifest.family
    if family == "encoder" and manifest.cache is not None:
        yield "family is encoder, which has no cache, but there is one"
    if family != "encoder" and manifest.cache is None:
        yield f"family is {family}, which needs a cache, but there is none"
    if family == "encoder_decoder":
        if manifest.source_length is None:
            yield "family is encoder_decoder, which needs a source_length"
        else:
            yield from _below_one("source_length", manifest.source_length)
        if manifest.tokens.start is None or not manifest.tokens.end:
            yield "family is encoder_decoder, which needs tokens.start and tokens.end"
    elif manifest.source_length is not None:
        yield f"family is {family}, which has no source_length"
    if family == "encoder" and None in {manifest.tokens.beginning, manifest.tokens.separator}:
        yield "family is encoder, which needs tokens.beginning and tokens.separator"


def _task_faults(manifest: Manifest) -> Iterator[str]:
    tasks, accepted = manifest.tasks, FAMILY_TASKS[manifest.family]
    if not tasks or len(set(tasks)) != len(tasks):
        yield "tasks must hold at least one task, each once"
    if foreign := [task for task in tasks if task not in accepted]:
        yield (
            f"family is {manifest.family}, which does not {', '.join(foreign)}; "
            f"accepted: {', '.join(accepted)}"
        )
    for task in tasks:
        if task in TASKS_WITH_LOGITS and LOGITS not in manifest.outputs:
            yield f"the task {task} needs the output {LOGITS}"
    if {"generate", "score"} <= set(tasks):
        yield "tasks holds generate and score, but the logits are of words or of labels"
    labelled = [task for task in tasks if task in TASKS_WITH_LABELS]
    if labelled and (not all(manifest.labels) or not manifest.labels):
        yield f"the task {labelled[0]} needs labels, none of them empty"
    if manifest.labels and not labelled:
        yield f"there are labels, but tasks holds none of {', '.join(TASKS_WITH_LABELS)}"
    if doubled := [label for label, count in Counter(manifest.labels).items() if count > 1]:
        yield f"labels holds {doubled[0]!r} more than once"
    if "embed" in tasks and manifest.pooling is None:
        yield "the task embed needs pooling"
    if manifest.pooling is not None:
        if "embed" not in tasks:
            yield "there is pooling, but tasks does not hold embed"
        if (output := POOLED_OUTPUTS[manifest.pooling]) not in manifest.outputs:
            yield f"pooling is {manifest.pooling}, which needs the output {output}"
    if "fill-mask" in tasks and manifest.tokens.mask is None:
        yield "the task fill-mask needs tokens.mask"


def _cache_faults(cache: CacheLayout) -> Iterator[str]:
    for name in ("layers", "key_value_heads", "head_size"):
        yield from _below_one(f"cache.{name}", getattr(cache, name))
    if tuple(cache.axes) != CACHE_AXES:
        yield f"cache.axes is {list(cache.axes)}, accepted: {list(CACHE_AXES)}"
    for name in ("past_key_name", "past_value_name", "present_key_name", "present_value_name"):
        if getattr(cache, name).count("{layer}") != 1:
            yield f"cache.{name} must hold {{layer}} once"


def _image_faults(manifest: Manifest) -> Iterator[str]:
    image = manifest.image
    if (image is not None) != (manifest.family == "vision_language"):
        yield f"family is {manifest.family}, but image is {'there' if image else 'not there'}"
    if image is None:
        return
    for name in ("size", "tokens"):
        yield from _below_one(f"image.{name}", getattr(image, name))
    if image.tokens >= manifest.context_length:
        yield f"image.tokens is {image.tokens}, which leaves nothing of the context"
    if len(image.mean) != 3 or len(image.std) != 3 or any(value <= 0 for value in image.std):
        yield "image.mean and image.std must have three numbers, those of std above 0"
    if not image.marker:
        yield "image.marker is empty"


def _file_faults(manifest: Manifest) -> Iterator[str]:
    files: tuple[BundleFile, ...] = manifest.files
    roles = Counter(file.role for file in files)
    paths = Counter(file.path for file in files)
    has_template = "chat_template" in roles
    if has_template and manifest.chat is None:
        yield "there is a chat_template file but no chat sample"
    if manifest.chat is not None and not has_template:
        yield "there is a chat sample but no file with the role chat_template"
    for role, count in roles.items():
        if role not in FILE_ROLES:
            yield f"the file role {role!r} is unknown, accepted: {', '.join(FILE_ROLES)}"
        if count > 1:
            yield f"{count} files have the role {role}"
    required = REQUIRED_ROLES
    if manifest.runtime == "onnx":
        required += FAMILY_ROLES_OF_ONNX.get(manifest.family, ())
    for role in required:
        if role not in roles:
            yield f"no file has the role {role}"
    for path, count in paths.items():
        if count > 1:
            yield f"the file {path!r} is listed {count} times"
        if not is_safe_path(path):
            yield f"the file path {path!r} is not relative or leads out of the bundle"
    for file in files:
        if file.bytes < 0:
            yield f"{file.path} has {file.bytes} bytes"
        if not re.fullmatch("[0-9a-f]{64}", file.sha256):
            yield f"the sha256 of {file.path} is not 64 lower-case hexadecimal digits"


def _token_faults(manifest: Manifest) -> Iterator[str]:
    tokens = manifest.tokens
    names = (
        "beginning",
        "padding",
        "start",
        "mask",
        "separator",
        "forced_first",
        "forced_last",
    )
    named: dict[str, int | None] = {name: getattr(tokens, name) for name in names}
    named |= {f"end[{index}]": token for index, token in enumerate(tokens.end)}
    for index, probe in enumerate(manifest.probes):
        named[f"probes[{index}] (smallest)"] = min(probe.ids, default=None)
        named[f"probes[{index}] (largest)"] = max(probe.ids, default=None)
    for name, token in named.items():
        if token is not None and not 0 <= token < manifest.vocabulary_size:
            yield f"{name} is token {token}, the vocabulary has {manifest.vocabulary_size}"
    if not 1 <= manifest.sampled_vocabulary <= manifest.vocabulary_size:
        yield (
            f"sampled_vocabulary is {manifest.sampled_vocabulary}, accepted: 1 to "
            f"{manifest.vocabulary_size}, which the vocabulary has"
        )
    if tokens.add_beginning and tokens.beginning is None:
        yield "tokens.add_beginning is true but there is no beginning token"
    yield from _below_one("tokens.separators_between", tokens.separators_between)


def _generation_faults(manifest: Manifest) -> Iterator[str]:
    try:
        GenerationOptions(**dataclasses.asdict(manifest.defaults))
    except OptionsError as error:
        yield f"in defaults, {error}"
    if manifest.prefixes and (manifest.family, manifest.tasks) != (
        "encoder_decoder",
        ("generate",),
    ):
        yield f"prefixes are there, which no {manifest.family} has; accepted for: encoder_decoder"
    try:
        GenerationOptions(stop=manifest.stop)
    except OptionsError as error:
        yield str(error)
