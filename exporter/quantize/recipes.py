"""How the weights of each role are stored, as text: formats, recipes, their grammar.

Workflow: the command line or a profile gives a text, `Recipe.parse` turns it into one frozen value
and the exporter asks `Recipe.format_for(role)` for every weight that it meets.

Grammar:
    recipe  := base [ "," role "=" format ]* [ "," "activations=" ( "float32" | "int8" ) ]
    base    := a named recipe ("fp32", "fp16", "int8", "int4", "keep") or any format
    role    := "embedding" | "attention" | "mlp" | "head"
    format  := "fp32" | "fp16" | "keep" | "int8" | "int4-channel"
             | ( "int4" | "int8" ) "-block" ( "32" | "64" | "128" ) [ "-asymmetric" ]

Rules:
- The base sets every role, each further part changes one. `str()` gives the shortest text that
  parses back to the same value.
- Formats "int8" and "int4-channel" are one scale per output channel, and their products always take
  int8 activations with one scale per token. `activations` chooses for the block formats and for
  "keep": "int8" quantizes them at run time per block (fast where the CPU has int8 dot products),
  "float32" never does.
- Unless said, activations are int8 when a linear role is quantized, and float32 when none is or
  when one is "keep", which promises the checkpoint's own numbers.
- A text that contradicts itself is refused, never repaired.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Self, cast, get_args

from edgewise.exporter.quantize.errors import RecipeError

Kind = Literal["float32", "float16", "block", "channel", "keep"]
Role = Literal["embedding", "attention", "mlp", "head"]
Activations = Literal["float32", "int8"]

BLOCK_BITS = (4, 8)
BLOCK_SIZES = (32, 64, 128)
ROLES: tuple[Role, ...] = get_args(Role)
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)

_LINEAR_ROLES: tuple[Role, ...] = ("attention", "mlp", "head")  # an embedding has no product
_PLAIN_FORMATS: Mapping[str, Kind] = MappingProxyType(
    {"fp32": "float32", "fp16": "float16", "keep": "keep"}
)
_CHANNEL_FORMATS: Mapping[str, int] = MappingProxyType({"int8": 8, "int4-channel": 4})  # bits
_BLOCK_FORMAT = re.compile(r"int(4|8)-block(32|64|128)(-asymmetric)?")
_FORMAT_GRAMMAR = (
    "fp32, fp16, keep, int8 (per channel), int4-channel, int4-block32|64|128 and "
    "int8-block32|64|128, the block forms optionally with -asymmetric"
)
_RECIPE_GRAMMAR = (
    "a recipe is a name (fp32, fp16, int8, int4, keep) or a format, then optionally "
    "embedding=, attention=, mlp=, head= with a format, and activations=float32|int8, "
    'separated by commas, as in "int4,mlp=int8-block32,head=int8"'
)


@dataclass(frozen=True)
class WeightFormat:
    """How one weight is stored.

    Attributes:
        kind: "float32" and "float16" store plain numbers, "block" one scale per block of input
            channels, "channel" one scale per output channel, "keep" the checkpoint's own blocks.
        bits: 4 or 8 for "block" and "channel", else None.
        block_size: input channels that share a scale, 32, 64 or 128, for "block", else None.
        symmetric: False only for a "block" with a zero point of its own in every block.
    """

    kind: Kind
    bits: int | None = None
    block_size: int | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        given = (
            f"kind={self.kind!r}, bits={self.bits}, block_size={self.block_size}, "
            f"symmetric={self.symmetric}"
        )
        if self.kind not in get_args(Kind):
            raise RecipeError(
                f"Weight format ({given}): kind must be one of {', '.join(get_args(Kind))}."
            )
        if self.kind == "block":
            if self.bits not in BLOCK_BITS or self.block_size not in BLOCK_SIZES:
                raise RecipeError(
                    f"Weight format ({given}): a block has 4 or 8 bits and 32, 64 or 128 weights."
                )
            return
        accepted = tuple(_CHANNEL_FORMATS.values()) if self.kind == "channel" else (None,)
        if self.bits not in accepted or self.block_size is not None or not self.symmetric:
            raise RecipeError(
                f"Weight format ({given}): {self.kind} takes "
                f"bits={' or '.join(map(str, accepted))}, block_size=None and symmetric=True."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads one format.

        Args:
            text: as in the module's grammar, for example "int4-block32-asymmetric".

        Raises:
            RecipeError: the text is no format; the message gives the nearest and all accepted.
        """
        kind = _PLAIN_FORMATS.get(text)
        if kind is not None:
            return cls(kind)
        if text in _CHANNEL_FORMATS:
            return cls("channel", _CHANNEL_FORMATS[text])
        match = _BLOCK_FORMAT.fullmatch(text)
        if match is None:
            raise RecipeError(
                f'Unknown weight format "{text}".{_nearest(text, FORMAT_NAMES)} '
                f"Accepted are {_FORMAT_GRAMMAR}."
            )
        return cls("block", int(match[1]), int(match[2]), symmetric=match[3] is None)

    def __str__(self) -> str:
        if self.kind == "block":
            return f"int{self.bits}-block{self.block_size}" + (
                "" if self.symmetric else "-asymmetric"
            )
        if self.kind == "channel":
            return next(text for text, bits in _CHANNEL_FORMATS.items() if bits == self.bits)
        return next(text for text, kind in _PLAIN_FORMATS.items() if kind == self.kind)

    @property
    def bytes_per_weight(self) -> float:
        """Bytes a weight takes with its share of scale and zero point, for estimates.

        A "channel" scale is shared by a whole row and not counted. Exact sizes of given tensors are
        `streaming.layout_of(...).nbytes`.

        Raises:
            RecipeError: for "keep", whose size only the checkpoint's own types decide.
        """
        if self.kind == "keep":
            raise RecipeError(
                'The size of format "keep" depends on the types in the checkpoint: '
                "ask for the layout of its tensors."
            )
        if self.bits is None:
            return {"float32": 4.0, "float16": 2.0}[self.kind]
        if self.block_size is None:
            return self.bits / 8
        zero_point_bits = 0 if self.symmetric else self.bits
        return self.bits / 8 + (32 + zero_point_bits) / 8 / self.block_size


def _nearest(text: str, names: Iterable[str]) -> str:
    matches = difflib.get_close_matches(text, list(dict.fromkeys(names)), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(matches)}?" if matches else ""


FORMAT_NAMES: tuple[str, ...] = (
    *_PLAIN_FORMATS,
    *_CHANNEL_FORMATS,
    *(
        f"int{bits}-block{block_size}{suffix}"
        for bits in BLOCK_BITS
        for block_size in BLOCK_SIZES
        for suffix in ("", "-asymmetric")
    ),
)

RECIPE_NAMES: Mapping[str, str] = MappingProxyType(
    {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int4": "int4-block32", "keep": "keep"}
)
"""Named recipe -> the format that it gives to every role."""


@dataclass(frozen=True)
class Recipe:
    """The format of every role, and the type in which block products take their activations.

    Attributes:
        name: the base that the text began with: a named recipe or a format.
        embedding, attention, mlp, head: formats by role; "attention" and "mlp" are the projections
            inside the blocks, "head" is the matrix from hidden states to logits.
        activations: "int8" or "float32", see the module's rules.
    """

    name: str
    embedding: WeightFormat
    attention: WeightFormat
    mlp: WeightFormat
    head: WeightFormat
    activations: Activations

    def __post_init__(self) -> None:
        _base_format(self.name)
        kinds = {self.format_for(role).kind for role in _LINEAR_ROLES}
        chooses = bool(kinds & {"block", "keep"})
        if self.activations not in ACTIVATIONS:
            raise RecipeError(
                f'Unknown activations "{self.activations}".'
                f"{_nearest(self.activations, ACTIVATIONS)} Accepted are float32 and int8."
            )
        if self.activations == "int8" and not chooses and "channel" not in kinds:
            raise RecipeError(
                f"Recipe {self.name}: activations=int8 contradicts attention={self.attention}, "
                f"mlp={self.mlp}, head={self.head}, none of which is quantized. Leave activations "
                "out or give one of these roles an int4 or int8 format."
            )
        if self.activations == "float32" and not chooses and "channel" in kinds:
            raise RecipeError(
                f"Recipe {self.name}: activations=float32 contradicts the formats int8 and "
                "int4-channel, whose products take int8 activations with one scale per token. "
                "Leave activations out or use int8-block32 weights."
            )

    @classmethod
    def named(cls, name: str) -> Self:
        """One of `RECIPE_NAMES` as it stands.

        Raises:
            RecipeError: the name is none of them.
        """
        if name not in RECIPE_NAMES:
            raise RecipeError(
                f'Unknown recipe "{name}".{_nearest(name, RECIPE_NAMES)} '
                f"Named recipes are {', '.join(RECIPE_NAMES)}."
            )
        return cls.parse(name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a recipe.

        Args:
            text: as in the module's grammar, for example "int4,mlp=int8-block32,head=int8".

        Raises:
            RecipeError: a part is unknown, given twice or contradicts another.
        """
        base, *changes = (part.strip() for part in text.split(","))
        formats: dict[Role, WeightFormat] = dict.fromkeys(ROLES, _base_format(base))
        activations: str | None = None
        seen: set[str] = set()
        for change in changes:
            key, equals, value = (piece.strip() for piece in change.partition("="))
            if not equals or key not in (*ROLES, "activations"):
                raise RecipeError(
                    f'Recipe "{text}": cannot read "{change}".'
                    f"{_nearest(key, (*ROLES, 'activations'))} {_capital(_RECIPE_GRAMMAR)}."
                )
            if key in seen:
                raise RecipeError(f'Recipe "{text}": {key} is given twice; give it once.')
            seen.add(key)
            if key == "activations":
                activations = value
            else:
                formats[cast("Role", key)] = WeightFormat.parse(value)
        chosen = _default_activations(formats) if activations is None else activations
        return cls(base, **formats, activations=cast("Activations", chosen))

    def __str__(self) -> str:
        base = _base_format(self.name)
        formats = {role: self.format_for(role) for role in ROLES}
        parts = [self.name]
        parts += [f"{role}={chosen}" for role, chosen in formats.items() if chosen != base]
        if self.activations != _default_activations(formats):
            parts.append(f"activations={self.activations}")
        return ",".join(parts)

    def format_for(self, role: str) -> WeightFormat:
        """The format of a role's weights.

        Raises:
            RecipeError: the role is none of `ROLES`.
        """
        if role not in ROLES:
            raise RecipeError(
                f'Unknown role "{role}".{_nearest(role, ROLES)} Roles are {", ".join(ROLES)}.'
            )
        return cast("WeightFormat", getattr(self, role))


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _base_format(base: str) -> WeightFormat:
    format_text = RECIPE_NAMES.get(base, base)
    try:
        return WeightFormat.parse(format_text)
    except RecipeError as error:
        raise RecipeError(
            f'Unknown recipe "{base}".{_nearest(base, (*RECIPE_NAMES, *FORMAT_NAMES))} '
            f"{_capital(_RECIPE_GRAMMAR)}; formats are {_FORMAT_GRAMMAR}."
        ) from error


def _default_activations(formats: Mapping[Role, WeightFormat]) -> Activations:
    kinds = {formats[role].kind for role in _LINEAR_ROLES}
    return "int8" if kinds & {"block", "channel"} and "keep" not in kinds else "float32"
