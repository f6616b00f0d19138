"""What an export will do; `planning.make_plan` settles it before anything large is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.attention import CacheScales
from edgewise.exporter.graph.outline import OutlineBuilder
from edgewise.exporter.graph.scaling import Factors, ScalingBuilder
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.model_size import EncoderWork
from edgewise.exporter.models import Definition
from edgewise.exporter.models.decoder import DecoderConfiguration, TensorSpecification
from edgewise.exporter.models.encoder import EncoderConfiguration
from edgewise.exporter.models.encoder_decoder import EncoderDecoderConfiguration
from edgewise.exporter.models.vision_language import VisionLanguageConfiguration
from edgewise.exporter.quantize.prepared import PreparedMatrix
from edgewise.exporter.quantize.recipes import ROLES, Recipe
from edgewise.firmware_profiles import Profile
from edgewise.firmware_profiles.vocabulary import CACHE_DTYPE_BYTES
from edgewise.runtime.manifest import CacheType, Family

RuntimeName = Literal["onnx", "tflite", "litertlm"]
Configuration = (
    DecoderConfiguration
    | EncoderConfiguration
    | EncoderDecoderConfiguration
    | VisionLanguageConfiguration
)


class PlanError(EdgewiseError):
    """What was asked for contradicts the model, the board or this version."""


@dataclass(frozen=True)
class CacheSize:
    """The key/value cache of a decoder, and of the decoder of an encoder-decoder."""

    layers: int
    key_value_heads: int
    head_size: int  # elements
    copies: int = 1  # while a token is computed; 2 where a graph appends to it by copying
    dtype: CacheType = "float32"


@dataclass(frozen=True)
class ExportPlan:
    """Everything an export needs to know besides the weights."""

    model_id: str
    architecture: str
    family: Family
    definition: Definition
    configuration: Configuration
    tensors: Mapping[str, TensorSpecification]
    profile: Profile
    runtime: RuntimeName
    recipe: Recipe
    context_length: int  # tokens
    source_length: int | None  # tokens that an encoder-decoder reads
    is_traced: bool = False  # whether the graph is another program's
    cache_dtype: CacheType = "float32"  # of what a decoder keeps of its own tokens
    drafts: bool = False  # whether graphs that check drafts are asked for, where they cost memory
    prepared: Mapping[str, PreparedMatrix] = field(default_factory=dict, repr=False)
    factors: Mapping[str, Factors] = field(default_factory=dict, repr=False)  # by weight
    cache_scales: Mapping[int, CacheScales] = field(default_factory=dict, repr=False)  # by layer

    @property
    def parameters(self) -> int:
        """Numbers in the checkpoint, tied ones counted once."""
        return sum(tensor.parameters for tensor in self.tensors.values())

    @property
    def formats(self) -> dict[str, str]:
        """Format texts by role."""
        return {role: str(self.recipe.format_for(role)) for role in ROLES}

    @property
    def activations(self) -> str:
        """The type in which products of blocks take their inputs: "int8" or "float32"."""
        return self.recipe.activations

    @property
    def gate_bits(self) -> int:
        """The precision that verification may expect: the fewest bits of any matrix.

        Kept blocks are the checkpoint's own numbers, so with float32 activations nothing is lost.
        """
        widths = {"float32": 32, "float16": 16, "channel": 8}
        with_int8 = self.recipe.activations == "int8"
        bits = [] if self.cache is None else [8 * CACHE_DTYPE_BYTES[self.cache_dtype]]
        for role in ROLES:
            form = self.recipe.format_for(role)
            if form.kind == "keep":
                bits.append(8 if with_int8 else 32)
            else:
                bits.append(form.bits or widths[form.kind])
        return min(bits)

    @property
    def cache(self) -> CacheSize | None:
        """The cache; None of an encoder, which keeps none."""
        copies = 2 if self.is_traced else 1
        match self.configuration:
            case EncoderConfiguration():
                return None
            case EncoderDecoderConfiguration() as c:
                return CacheSize(c.decoder_layers, c.heads, c.head_size, copies, self.cache_dtype)
            case VisionLanguageConfiguration(text=c):
                shape = c.layers, c.key_value_heads, c.head_size
                return CacheSize(*shape, dtype=self.cache_dtype)
            case DecoderConfiguration() as c:
                shape = c.layers, c.key_value_heads, c.head_size
                return CacheSize(*shape, copies, self.cache_dtype)

    @property
    def encoder(self) -> EncoderWork | None:
        """What the memory of its encoder depends on; None without one."""
        c = self.configuration
        if isinstance(c, DecoderConfiguration):
            return None
        if isinstance(c, VisionLanguageConfiguration):
            v = c.vision
            return EncoderWork(v.hidden_size, v.intermediate_size, v.heads, 0, v.squares + 1)
        guesses = isinstance(c, EncoderConfiguration) and c.head == "masked_language_model"
        results = c.vocabulary_size if guesses else 0
        return EncoderWork(c.hidden_size, c.intermediate_size, c.heads, results)

    @property
    def tied_head(self) -> bool:
        """Whether the head reads the embedding's numbers."""
        c = self.configuration
        if isinstance(c, EncoderConfiguration):
            return c.head == "masked_language_model" and c.tied_head
        return c.text.tied_head if isinstance(c, VisionLanguageConfiguration) else c.tied_head

    @property
    def labels(self) -> tuple[str, ...]:
        """What the numbers of a head mean that gives no words."""
        c = self.configuration
        if isinstance(c, EncoderDecoderConfiguration | VisionLanguageConfiguration):
            return ()
        return c.labels

    def describe(
        self,
        name: str,
        builder: object,
        checkpoint: Checkpoint,
        visited: Callable[[str], None] | None = None,
    ) -> None:
        """Describe one of the model's passes to a builder, with the checkpoint's tensors.

        Args:
            name: One of those of the family: ``models.PASSES``.
            builder: What the operations are called on, a builder of the pass's kind.
            checkpoint: Where the weights come from.
            visited: Told the name of each weight as the model comes to it.
        """

        def weight(name: str) -> Weight:
            if visited is not None:
                visited(name)
            role, source = self.tensors[name].role, checkpoint.tensors[name]
            return Weight(name, role, source, prepared=self.prepared)

        given = ScalingBuilder(builder, self.factors) if self.factors else builder
        getattr(self.definition, name)(given, self.configuration, weight)

    def outline(self, name: str, checkpoint: Checkpoint) -> OutlineBuilder:
        """Return what one of the passes declares, without reading a weight."""
        builder = OutlineBuilder()
        self.describe(name, builder, checkpoint)
        return builder
