"""How many bytes a model takes in memory: weights, by the formats of its recipe, cache, and work.

Rules: closed forms over shapes, without a weight or a framework. Weights are counted as they lie in
memory while the model runs, which for fp16 on onnxruntime is fp32: it widens such constants when it
loads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from edgewise.firmware_profiles.vocabulary import CACHE_DTYPE_BYTES, MULTIPLIED_ROLES

SCALE_BYTES = 4  # float32
BLOCK_SCALE_BYTES = MappingProxyType({"onnx": 4, "tflite": 2})  # float32, float16
FLOAT_BYTES = 4
PLAIN_BYTES = MappingProxyType(
    {"fp32": Fraction(4), "fp16": Fraction(2), "int8": Fraction(1), "int4-channel": Fraction(1, 2)}
)
CHANNEL_FORMATS = ("int8", "int4-channel")  # a scale for each row
BLOCK_FORMAT = re.compile(
    r"int(?P<bits>[48])-block(?P<size>32|64|128)(?P<zero_points>-asymmetric)?"
)
# "keep" stores what the checkpoint has. Its largest lossless block is Q8_0 with its scale widened
# to float32; what has no lossless block is stored as fp32 and counted by the caller as such.
LARGEST_KEPT_FORMAT = "int8-block32"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class EncoderWork:
    """What the activations of an encoder depend on, in elements.

    Attributes:
        hidden_size: Features a token.
        intermediate_size: Features inside the MLP.
        heads: Heads of the attention.
        result_size: Numbers that the graph gives for each token, such as a logit for each word.
        tokens: Of every input, as of an image; None: as many as the context.
    """

    hidden_size: int
    intermediate_size: int
    heads: int
    result_size: int
    tokens: int | None = None

    def activation_bytes(self, tokens: int) -> int:
        """Bytes that are alive at once for one text; rather too many than too few.

        Eight times the states (residual, queries, keys, values, ...), three times the MLP's
        features and the scores (before and behind their activation or softmax, and what an
        allocator rounds up), four times the results (product, bias added, and their copies on the
        way to the caller). Measured at 512 tokens with onnxruntime: MiniLM 49 MiB where this says
        51, a small BERT with 30,522 words 205 MiB where this says 272.
        """
        of_a_token = 8 * self.hidden_size + 3 * self.intermediate_size + 4 * self.result_size
        scores = 3 * self.heads * tokens
        return FLOAT_BYTES * tokens * (of_a_token + scores)


@dataclass(frozen=True)
class ModelSize:
    """What a model's memory depends on.

    Attributes:
        shapes: Shapes of its tensors by role. "embedding", "attention", "mlp" and "head" follow
            the recipe; every other role is kept in float32. A tied model has no "head" of its own.
        tied_head: Whether the head reads the embedding's numbers.
        layers: Layers with a cache; 0 in an encoder.
        key_value_heads: Key and value heads of a layer.
        head_size: Elements a head.
        encoder: What an encoder computes with, alone or before a decoder; None without one.
        keeps_source: Whether a decoder keeps keys and values of the encoder's tokens as well.
        cache_dtype: Type of the cache's elements.
        cache_copies: How often the cache is there while a token is computed.
    """

    shapes: Mapping[str, Sequence[Shape]]
    tied_head: bool
    layers: int
    key_value_heads: int
    head_size: int
    encoder: EncoderWork | None = None
    keeps_source: bool = False
    cache_copies: int = 1
    cache_dtype: str = "float32"

    def cache_bytes_per_token(self, dtype: str) -> int:
        """Bytes of keys and values that one token adds to the cache.

        int8 caches are counted without their scales, which are fixed and do not grow with tokens.
        """
        elements = 2 * self.layers * self.key_value_heads * self.head_size * self.cache_copies
        return elements * CACHE_DTYPE_BYTES[dtype]

    def working_bytes(self, context: int) -> int:
        """Bytes that stay or pass beside weights and cache; a decoder's own are too few to count.

        An encoder's activations for its longest text; before a decoder, also the keys and values of
        the longest source, which every layer of the decoder has of its own.

        Args:
            context: Tokens of a text, and of a source.
        """
        if self.encoder is None:
            return 0
        kept = self.cache_bytes_per_token("float32") * context if self.keeps_source else 0
        return kept + self.encoder.activation_bytes(self.working_tokens(context))

    def working_tokens(self, context: int) -> int:
        """Tokens that an encoder works on: of an image, or of a text as long as may be."""
        if self.encoder is None:
            return 0
        return self.encoder.tokens or context


def bytes_per_parameter(format_text: str) -> Fraction:
    """Return what one number of a large matrix costs in a format.

    fp32 4, fp16 2, int8 1, int4-channel 1/2 (the scale of a whole row vanishes); blocks of B
    numbers of b bits b/8 + 4/B, and with zero points b/8/B more.

    Raises:
        ValueError: The text is no format of known size ("keep" has none of its own).
    """
    if format_text in PLAIN_BYTES:
        return PLAIN_BYTES[format_text]
    match = BLOCK_FORMAT.fullmatch(format_text)
    if match is None:
        raise ValueError(f"{format_text!r} is no weight format of known size")
    bits, size = int(match["bits"]), int(match["size"])
    number = Fraction(bits, 8)
    return number + Fraction(SCALE_BYTES, size) + (number / size if match["zero_points"] else 0)


def matrix_bytes(
    format_text: str, rows: int, columns: int, runtime: str = "onnx", activations: str = "int8"
) -> int:
    """Return the exact size of one matrix [rows, columns] in a format, scales included.

    Blocks run along the columns; the last of a row is padded to its full size. Zero points are
    packed by row and padded to whole bytes. "keep" gives its upper bound.

    Args:
        format_text: The format.
        rows: Output channels.
        columns: Input channels.
        runtime: "onnx" or "tflite".
        activations: Of the product, "int8" or "float32"; onnxruntime multiplies the latter by
            blocks of 8 bits as two halves, each with scales of its own, and a float32 offset.
    """
    if format_text == "keep":
        format_text = LARGEST_KEPT_FORMAT
    match = BLOCK_FORMAT.fullmatch(format_text)
    if match is None:
        scales = rows * SCALE_BYTES if format_text in CHANNEL_FORMATS else 0
        return rows * math.ceil(bytes_per_parameter(format_text) * columns) + scales
    bits, size = int(match["bits"]), int(match["size"])
    blocks = math.ceil(columns / size)
    codes = blocks * size * bits // 8
    if _is_halved(format_text, runtime, activations):
        return rows * (codes + 3 * blocks * SCALE_BYTES)
    zero_points = math.ceil(blocks * bits / 8) if match["zero_points"] else 0
    return rows * (codes + blocks * BLOCK_SCALE_BYTES[runtime] + zero_points)


def _is_halved(format_text: str, runtime: str, activations: str) -> bool:
    is_block = BLOCK_FORMAT.fullmatch(format_text) is not None and format_text.startswith("int8")
    return runtime == "onnx" and activations == "float32" and is_block


def _role_bytes(shapes: Sequence[Shape], format_text: str, runtime: str, activations: str) -> int:
    total = 0
    for shape in shapes:
        if len(shape) == 2:
            total += matrix_bytes(format_text, *shape, runtime, activations)
        else:  # no format has a place for the scales of a vector
            total += matrix_bytes("fp32", 1, math.prod(shape))
    return total


def _in_memory(format_text: str, runtime: str) -> str:
    return "fp32" if format_text == "fp16" and runtime == "onnx" else format_text


def bytes_by_role(
    model: ModelSize, formats: Mapping[str, str], runtime: str, activations: str = "int8"
) -> dict[str, int]:
    """Return the memory of each role's weights, in bytes.

    A tied head costs nothing where it can read the embedding's very bytes: in the same format, and
    not as int8, whose products want the matrix transposed and so take a copy, nor as halves.

    Args:
        model: Shapes by role.
        formats: Format texts by role, "head" always among them.
        runtime: "onnx" or "tflite".
        activations: Of the recipe: "int8" or "float32".
    """
    held = {role: _in_memory(text, runtime) for role, text in formats.items()}

    def size(shapes: Sequence[Shape], role: str) -> int:
        met = activations if role in MULTIPLIED_ROLES else "int8"
        return _role_bytes(shapes, held.get(role, "fp32"), runtime, met)

    sizes = {role: size(shapes, role) for role, shapes in model.shapes.items()}
    has_copy = held["head"] == "int8" or _is_halved(held["head"], runtime, activations)
    shared = held["head"] == held["embedding"] and not (runtime == "onnx" and has_copy)
    if model.tied_head and not shared:
        sizes["head"] = size(model.shapes["embedding"], "head")
    return sizes


def weights_bytes(
    model: ModelSize, formats: Mapping[str, str], runtime: str, activations: str = "int8"
) -> int:
    """Return the memory of all weights, in bytes; arguments as bytes_by_role."""
    return sum(bytes_by_role(model, formats, runtime, activations).values())
