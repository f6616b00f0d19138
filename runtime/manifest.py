"""What a bundle says of itself: ``manifest.json``, the hinge between exporter and runtime.

Workflow: the exporter builds a `Manifest` and writes `manifest_to_json`; the device reads the bytes
with `manifest_from_json`. Both run the same checks (manifest_checks.py), so that a contradiction is
found where it is made. What the runtime needs and the graph does not say stands here; the runtime
guesses nothing.

Rules: standard library only (the exporter, a server and a board all read it). Every fault is listed
in one error. A field is added, renamed or given a new meaning only with a new FORMAT_VERSION;
manifests of every older version are converted while they are read (manifest_versions.py).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgewise.common.errors import EdgewiseError
from edgewise.common.strict_json import decode_object
from edgewise.runtime.dataclass_json import read_dataclass
from edgewise.runtime.manifest_checks import CACHE_AXES, contradictions
from edgewise.runtime.manifest_versions import FORMAT_VERSION, converted
from edgewise.runtime.options import SamplingDefaults

MANIFEST_MAX_BYTES = 4 << 20  # bytes; a real one has some kilobytes
MANIFEST_MAX_DEPTH = 32  # open brackets; figures of verification may be nested, by any exporter
SAMPLE_MOMENT = "2026-01-01T12:00:00"  # ISO 8601 local time, for templates that print the date

Family = Literal["decoder", "encoder", "encoder_decoder", "vision_language"]
Task = Literal["generate", "score", "fill-mask", "classify", "token-classify", "embed"]
CacheType = Literal["float32", "float16", "int8"]
CacheUpdate = Literal["in_place", "concatenated"]
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
    # Whether past and present are the same memory, or present is past with the new tokens behind.
    update: CacheUpdate = "in_place"

    @property
    def past_names(self) -> tuple[str, ...]:
        """The inputs of all layers, keys and values alternating."""
        return self._of_all_layers(self.past_key_name, self.past_value_name)

    @property
    def present_names(self) -> tuple[str, ...]:
        """The outputs of all layers, keys and values alternating."""
        return self._of_all_layers(self.present_key_name, self.present_value_name)

    def _of_all_layers(self, *names: str) -> tuple[str, ...]:
        return tuple(name.format(layer=layer) for layer in range(self.layers) for name in names)


@dataclass(frozen=True)
class BundleFile:
    """One file of the bundle, besides the manifest itself."""

    role: str  # one of manifest_checks.FILE_ROLES, each at most once
    path: str  # relative to the bundle's folder, "/" between parts
    bytes: int
    sha256: str  # 64 lower-case hexadecimal digits


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids (and texts) with a function; None where the model has no such token."""

    beginning: int | None  # an encoder's stands before every text, such as [CLS]
    end: tuple[int, ...]  # any of them ends a generation; the first one ends a source
    padding: int | None
    add_beginning: bool  # whether plain encoding puts `beginning` first
    beginning_text: str | None  # `bos_token` of the chat template
    end_text: str | None  # `eos_token` of the chat template
    start: int | None = None  # what the decoder of an encoder-decoder begins with
    mask: int | None = None  # stands for a word to be guessed
    separator: int | None = None  # behind every text that an encoder reads, such as [SEP]
    separators_between: int = 1  # between two texts that an encoder reads together
    ends_source: bool = True  # whether the first of `end` stands behind what is read
    forced_first: int | None = None  # begins every answer of an encoder-decoder
    forced_last: int | None = None  # ends an answer that there is no room to go on with


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
class Calibration:
    """How a text decided the rounding of weights."""

    method: str  # "error feedback"
    text_sha256: str  # of the file, 64 lower-case hexadecimal digits
    tokens: int  # of it that the model read
    matrices: int  # that were rounded so
    formats: Mapping[str, str]  # weight -> format, where it is not that of the weight's role
    # First matrix behind channels that were made alike -> strength, from 0 (weights alike) to 1
    # (activations alike).
    smoothed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageLayout:
    """How an image becomes what the vision graph takes, and where it stands in a prompt."""

    size: int  # pixels, both width and height
    mean: tuple[float, ...]  # of red, green and blue from 0 to 1; subtracted
    std: tuple[float, ...]  # of red, green and blue; what is left is divided by it
    # Bars that make it a square have the colour int(255 * mean); without, its middle is cut out.
    padding: Literal["mean", "none"]
    tokens: int  # positions of the context that an image takes
    marker: str = "<image>"  # what the image replaces in a prompt


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of manifest.json. Raises `BundleError` when its fields contradict each other."""

    format_version: int
    model_id: str
    architecture: str  # model_type of the Hugging Face config, e.g. "llama"
    parameters: int  # weights, tied ones counted once
    family: Family
    tasks: tuple[Task, ...]  # what it can do, the first unless asked for another
    runtime: RuntimeName
    recipe: str
    formats: Mapping[str, str]  # layer role -> weight format, e.g. "mlp" -> "int4-block32"
    profile: str  # the board it was exported for
    origin: Origin
    context_length: int  # tokens: prompt and answer, an encoder's text, an encoder-decoder's answer
    source_length: int | None = None  # tokens that an encoder-decoder reads
    vocabulary_size: int  # token ids that it knows, rows of its embedding
    sampled_vocabulary: int  # ids from here on are padding rows and never an answer
    cache: CacheLayout | None  # None: an encoder; an encoder-decoder's is of its own tokens
    inputs: tuple[str, ...]  # inputs of "graph" other than the cache
    outputs: tuple[str, ...]  # its results other than the cache
    labels: tuple[str, ...] = ()  # what a classifier's or scorer's logits mean, in their order
    pooling: Literal["mean", "first"] | None = None  # states that make the vector of a text
    image: ImageLayout | None = None
    files: tuple[BundleFile, ...]
    tokens: SpecialTokens
    probes: tuple[TokenizerProbe, ...]
    chat: ChatSample | None  # None: the bundle has no chat template
    prefixes: Mapping[str, str] = field(default_factory=dict)  # task of a text -> what begins it
    stop: tuple[str, ...] = ()  # texts that end an answer and are not part of it
    defaults: SamplingDefaults
    threads: int  # for the profile's board; the runtime takes no more than there are cores
    execution_providers: tuple[str, ...]  # onnxruntime's names, the preferred first
    minimum_versions: Mapping[str, str]  # distribution -> version, e.g. "onnxruntime" -> "1.22"
    verification: Mapping[str, object] | None  # the exporter's figures; None: not verified
    calibration: Calibration | None = None  # None: weights were rounded by themselves

    def __post_init__(self) -> None:
        if problems := list(contradictions(self)):
            raise BundleError(f"the manifest contradicts itself: {'; '.join(problems)}")


def decoder_cache(manifest: Manifest) -> CacheLayout:
    """Return the layout of the cache, for what can not do without one.

    Raises:
        BundleError: The bundle is an encoder's.
    """
    if manifest.cache is None:
        raise BundleError(
            f"the bundle of {manifest.model_id} is an encoder, which keeps no cache and generates "
            f"nothing; it was made to {', '.join(manifest.tasks)}"
        )
    return manifest.cache


def logits_size(manifest: Manifest) -> int:
    """Return how many numbers a decoder gives for a position: a word's each, or a label's."""
    return len(manifest.labels) or manifest.vocabulary_size


def source_size(manifest: Manifest) -> int:
    """Return how many tokens a source of an encoder-decoder may have."""
    return manifest.source_length or manifest.context_length


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
        value = decode_object(content, max_bytes=MANIFEST_MAX_BYTES, max_depth=MANIFEST_MAX_DEPTH)
    except ValueError as error:
        raise BundleError(f"{where} is not usable: {error}; export the bundle again") from error
    _check_version(value.get("format_version"), where)
    problems: list[str] = []
    try:
        current = converted(value, "manifest", problems)
        manifest = read_dataclass(Manifest, current, "manifest", problems)
    except BundleError as error:
        raise BundleError(f"{where} is not usable: {error}; export the bundle again") from error
    if manifest is None or problems:
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
