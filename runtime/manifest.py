"""What a bundle says of itself: ``manifest.json``, the hinge between exporter and runtime.

Workflow: the exporter builds a `Manifest` and writes `manifest_to_json`; the device reads the bytes
with `manifest_from_json`. Both run the same checks, so that a contradiction is found where it is
made. What the runtime needs and the graph does not say stands here; the runtime guesses nothing.

Rules: standard library only (the exporter, a server and a board all read it). Every fault is listed
in one error. A field is added, renamed or given a new meaning only with a new FORMAT_VERSION;
bundles of every older version stay readable.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.options import GenerationOptions, OptionsError, SamplingDefaults
from edgewise.runtime.strict_json import decode_object, read_dataclass

FORMAT_VERSION = 1
CACHE_AXES = ("batch", "key_value_head", "position", "head_size")
FILE_ROLES = (
    "graph",
    "weights",
    "tokenizer",
    "tokenizer_config",
    "chat_template",
    "genai_config",
)
REQUIRED_ROLES = ("graph", "tokenizer")
SAMPLE_MOMENT = "2026-01-01T12:00:00"  # ISO 8601 local time, for templates that print the date

CacheType = Literal["float32", "float16", "int8"]
RuntimeName = Literal[
    "onnx", "tflite", "litertlm", "fake"
]  # "fake": backends/fake.py, for tests without a model


class BundleError(EdgewiseError):
    """A bundle that is damaged, incomplete, contradictory, or made by a newer Edgewise."""


@dataclass(frozen=True)
class Origin:
    """Where the checkpoint came from."""

    kind: str  # "folder" | "gguf" | "package" | "hub"
    name: str  # what the user gave; last path components, never an absolute path
    revision: str | None  # commit of the hub repository, or version of the package
    file_type: str  # "safetensors" | "gguf"
    license: str | None


@dataclass(frozen=True)
class CacheLayout:
    """The key/value cache of the graph: a key and a value tensor of this layout in each layer."""

    layers: int
    key_value_heads: int
    head_size: int  # elements
    dtype: CacheType
    axes: tuple[str, ...] = CACHE_AXES
    past_key_name: str = "past_key_values.{layer}.key"  # graph inputs
    past_value_name: str = "past_key_values.{layer}.value"
    present_key_name: str = "present.{layer}.key"  # graph outputs
    present_value_name: str = "present.{layer}.value"


@dataclass(frozen=True)
class BundleFile:
    """One file of the bundle, besides the manifest itself."""

    role: str  # one of FILE_ROLES, each at most once
    path: str  # relative to the bundle's folder, "/" between parts
    bytes: int
    sha256: str  # 64 lower-case hexadecimal digits


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids (and texts) with a function; None where the model has no such token."""

    beginning: int | None
    end: tuple[int, ...]  # any of them ends a generation
    padding: int | None
    add_beginning: bool  # whether plain encoding puts `beginning` first
    beginning_text: str | None  # `bos_token` of the chat template
    end_text: str | None  # `eos_token` of the chat template


@dataclass(frozen=True)
class TokenizerProbe:
    """A text and the ids that must come out of it wherever the bundle is loaded.

    It is encoded as a raw prompt: special tokens in it are understood, the beginning token comes
    first if `SpecialTokens.add_beginning`.
    """

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ChatSample:
    """Messages and what the chat template makes of them, generation prompt included."""

    messages: tuple[Mapping[str, str], ...]  # {"role": ..., "content": ...}
    rendered: str
    moment: str = SAMPLE_MOMENT  # what `strftime_now` sees while rendering


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json. Raises `BundleError` when its fields contradict each other."""

    format_version: int
    model_id: str
    architecture: str  # model_type of the Hugging Face config, e.g. "llama"
    parameters: int  # weights, tied ones counted once
    task: Literal["generate"]
    runtime: RuntimeName
    recipe: str
    formats: Mapping[str, str]  # layer role -> weight format, e.g. "mlp" -> "int4-block32"
    profile: str  # the board it was exported for
    origin: Origin
    context_length: int  # tokens, prompt and answer together
    vocabulary_size: int  # rows of the logits
    cache: CacheLayout
    inputs: tuple[str, ...]  # graph inputs other than the cache
    files: tuple[BundleFile, ...]
    tokens: SpecialTokens
    probes: tuple[TokenizerProbe, ...]
    chat: ChatSample | None  # None: the bundle has no chat template
    defaults: SamplingDefaults
    threads: int  # for the profile's board; the runtime takes no more than there are cores
    execution_providers: tuple[str, ...]  # onnxruntime's names, the preferred first
    minimum_versions: Mapping[str, str]  # distribution -> version, e.g. "onnxruntime" -> "1.22"
    verification: Mapping[str, object] | None  # the exporter's figures; None: not verified

    def __post_init__(self) -> None:
        if problems := list(_contradictions(self)):
            raise BundleError(f"the manifest contradicts itself: {'; '.join(problems)}")


def manifest_to_json(manifest: Manifest) -> bytes:
    """Return the content of manifest.json: UTF-8, indented, fields in the order of the class.

    Raises:
        BundleError: A field holds what its annotation does not allow.
    """
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    content = (text + "\n").encode("utf-8")
    manifest_from_json(content, "the manifest to write")
    return content


def manifest_from_json(content: bytes, where: str) -> Manifest:
    """Read and check the content of manifest.json.

    Args:
        content: The bytes of the file.
        where: How to name the file in an error.

    Raises:
        BundleError: One error that lists every missing, unknown or mistyped field, or that asks
            for a newer Edgewise.
    """
    try:
        value = decode_object(content)
    except ValueError as error:
        raise BundleError(f"{where} is not usable: {error}; export the bundle again") from error
    _check_version(value.get("format_version"), where)
    problems: list[str] = []
    try:
        manifest = read_dataclass(Manifest, value, "manifest", problems)
    except BundleError as error:
        raise BundleError(f"{where} is not usable: {error}; export the bundle again") from error
    if manifest is None:
        raise BundleError(f"{where} is not usable: {'; '.join(problems)}; export the bundle again")
    return manifest


def _check_version(version: object, where: str) -> None:
    if type(version) is not int or version < 1:
        raise BundleError(
            f"{where} has the format version {version!r}; a whole number from 1 to"
            f" {FORMAT_VERSION} is accepted: is this the manifest of an Edgewise bundle?"
        )
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{where} has the format version {version}, this Edgewise reads up to"
            f" {FORMAT_VERSION}: upgrade it (pip install --upgrade edgewise)"
        )


def is_safe_path(path: str) -> bool:
    """Tell whether a path is relative, in normal form, and stays below the folder it starts in."""
    parts = path.split("/")
    return (
        not any(part in {"", ".", ".."} for part in parts)
        and not re.search(r"[\x00-\x1f\\:]", path)
        and path != "manifest.json"
    )


def _contradictions(manifest: Manifest) -> Iterator[str]:
    if not 1 <= manifest.format_version <= FORMAT_VERSION:
        yield f"format_version is {manifest.format_version}, accepted: 1 to {FORMAT_VERSION}"
    cache = manifest.cache
    counts = {
        "parameters": manifest.parameters,
        "context_length": manifest.context_length,
        "vocabulary_size": manifest.vocabulary_size,
        "threads": manifest.threads,
        "cache.layers": cache.layers,
        "cache.key_value_heads": cache.key_value_heads,
        "cache.head_size": cache.head_size,
    }
    for name, count in counts.items():
        if count < 1:
            yield f"{name} is {count}, it must be at least 1"
    for name in ("model_id", "architecture", "recipe", "profile"):
        if not getattr(manifest, name):
            yield f"{name} is empty"
    if tuple(cache.axes) != CACHE_AXES:
        yield f"cache.axes is {list(cache.axes)}, accepted: {list(CACHE_AXES)}"
    for name in ("past_key_name", "past_value_name", "present_key_name", "present_value_name"):
        if getattr(cache, name).count("{layer}") != 1:
            yield f"cache.{name} must hold {{layer}} once"
    if not manifest.inputs or len(set(manifest.inputs)) != len(manifest.inputs):
        yield "inputs must name at least one graph input, each once"
    yield from _file_faults(manifest.files)
    yield from _token_faults(manifest)
    try:
        GenerationOptions(**dataclasses.asdict(manifest.defaults))
    except OptionsError as error:
        yield f"in defaults, {error}"
    has_template = any(file.role == "chat_template" for file in manifest.files)
    if has_template and manifest.chat is None:
        yield "there is a chat_template file but no chat sample"
    if manifest.chat is not None and not has_template:
        yield "there is a chat sample but no file with the role chat_template"


def _file_faults(files: tuple[BundleFile, ...]) -> Iterator[str]:
    roles = Counter(file.role for file in files)
    paths = Counter(file.path for file in files)
    for role, count in roles.items():
        if role not in FILE_ROLES:
            yield f"the file role {role!r} is unknown, accepted: {', '.join(FILE_ROLES)}"
        if count > 1:
            yield f"{count} files have the role {role}"
    for role in REQUIRED_ROLES:
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
    named = {"beginning": tokens.beginning, "padding": tokens.padding}
    named |= {f"end[{index}]": token for index, token in enumerate(tokens.end)}
    for index, probe in enumerate(manifest.probes):
        named[f"probes[{index}] (smallest)"] = min(probe.ids, default=None)
        named[f"probes[{index}] (largest)"] = max(probe.ids, default=None)
    for name, token in named.items():
        if token is not None and not 0 <= token < manifest.vocabulary_size:
            yield f"{name} is token {token}, the vocabulary has {manifest.vocabulary_size}"
    if tokens.add_beginning and tokens.beginning is None:
        yield "tokens.add_beginning is true but there is no beginning token"
