"""How each role's weights are stored, and what a runtime on a CPU can do with that.

Workflow: a profile carries one RecipeChoice a runtime; `problems_with_recipe` says in sentences
why a choice can not work there. The exporter asks the same function about a recipe that a user
gave. Rules: formats are texts in the exporter's grammar; nothing is quantized here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgewise.firmware_profiles.errors import refuse_if_any
from edgewise.firmware_profiles.vocabulary import (
    ACTIVATIONS,
    INTEGER_DOT_FEATURES,
    MULTIPLIED_ROLES,
    ROLES,
    RUNTIMES,
    unknown,
)

RECIPE_NAMES = ("fp32", "fp16", "int8", "int4", "keep")
PLAIN_FORMATS = ("fp32", "fp16", "keep", "int8", "int4-channel")
FORMATS = PLAIN_FORMATS + tuple(
    f"int{bits}-block{size}{ending}"
    for bits in (8, 4)
    for size in (32, 64, 128)
    for ending in ("", "-asymmetric")
)


@dataclass(frozen=True)
class RecipeChoice:
    """Weight formats by role, and the type activations are multiplied in.

    Attributes:
        name: The recipe most weights follow: fp32, fp16, int8, int4 or keep.
        embedding: Format of the token embedding.
        attention: Format of the query, key, value and output projections.
        mlp: Format of the feed-forward matrices.
        head: Format of the output projection.
        activations: "int8" (scaled per token, in blocks) or "float32".
    """

    name: str
    embedding: str
    attention: str
    mlp: str
    head: str
    activations: str

    def __post_init__(self) -> None:
        problems = []
        if self.name not in RECIPE_NAMES:
            problems.append(unknown("name", self.name, RECIPE_NAMES))
        problems += [
            unknown(role, text, FORMATS)
            for role, text in self.formats.items()
            if text not in FORMATS
        ]
        if self.activations not in ACTIVATIONS:
            problems.append(unknown("activations", self.activations, ACTIVATIONS))
        multiplied = {self.formats[role] for role in MULTIPLIED_ROLES}
        if self.activations == "int8" and multiplied <= {"fp32", "fp16"}:
            problems.append("activations 'int8' meet no integer weights; write 'float32'")
        by_channel = multiplied & {"int8", "int4-channel"}
        if (
            self.activations == "float32"
            and by_channel
            and multiplied <= by_channel | {"fp32", "fp16"}
        ):
            problems.append(
                f"activations 'float32' contradict {' and '.join(sorted(by_channel))}, whose "
                "products take int8 activations; write 'int8' or use int8-block32"
            )
        refuse_if_any("recipe", problems)

    @classmethod
    def uniform(cls, text: str, *, activations: str) -> RecipeChoice:
        """Make the recipe that stores every role in the one format ``text``."""
        return cls(text.partition("-")[0], text, text, text, text, activations)

    @property
    def formats(self) -> dict[str, str]:
        """Format texts by role, in the order embedding, attention, mlp, head."""
        return {role: str(getattr(self, role)) for role in ROLES}

    @property
    def name_is_used(self) -> bool:
        """Whether at least one role is stored as the name says."""
        return any(
            text == self.name or text.startswith(f"{self.name}-") for text in self.formats.values()
        )

    @property
    def default_activations(self) -> str:
        """What the exporter's grammar takes activations to be where a text does not say."""
        multiplied = [self.formats[role] for role in MULTIPLIED_ROLES]
        integer = any(text.startswith("int") for text in multiplied)
        return "int8" if integer and "keep" not in multiplied else "float32"

    def __str__(self) -> str:
        """Write the recipe as a text that ``--recipe`` takes, without what goes without saying."""
        texts = set(self.formats.values())
        base = texts.pop() if len(texts) == 1 else self.name
        base_format = "int4-block32" if base == "int4" else base
        parts = [base]
        parts += [f"{role}={text}" for role, text in self.formats.items() if text != base_format]
        if self.activations != self.default_activations:
            parts.append(f"activations={self.activations}")
        return ",".join(parts)


def _problems_on_onnx(recipe: RecipeChoice, features: Collection[str]) -> list[str]:
    problems = [
        f"{role}: onnxruntime has no product for {text}; use int4-block32, or int8 (per channel)"
        for role, text in recipe.formats.items()
        if text == "int4-channel"
    ]
    blocks = [
        role
        for role in MULTIPLIED_ROLES
        if "-block" in recipe.formats[role] or recipe.formats[role] == "keep"
    ]
    if recipe.activations == "int8" and blocks and not INTEGER_DOT_FEATURES & set(features):
        problems.append(
            f"{' and '.join(blocks)} in blocks with int8 activations need one of "
            f"{', '.join(sorted(INTEGER_DOT_FEATURES))}: without them onnxruntime silently "
            "computes in fp32; use int8 (per channel) or float32 activations"
        )
    return problems


def _problems_on_tflite(recipe: RecipeChoice, userland: str) -> list[str]:
    problems = []
    for role, text in recipe.formats.items():
        if text == "keep":
            problems.append(f"{role}: tflite has no operator that keeps GGUF blocks as they are")
        elif text.startswith("int8-block"):
            problems.append(f"{role}: XNNPACK refuses {text}; use int8 (per channel)")
        elif text.endswith("-asymmetric"):
            problems.append(f"{role}: XNNPACK takes no zero points in blocks; use a symmetric one")
        elif text.startswith("int4") and userland == "armv7l":
            problems.append(f"{role}: 32-bit tflite-runtime 2.14 has no int4; use int8")
    integer = any(recipe.formats[role].startswith("int") for role in MULTIPLIED_ROLES)
    if recipe.activations == "float32" and integer:
        problems.append(
            "activations 'float32': XNNPACK itself quantizes the activations of a fully "
            "connected layer with integer weights; write 'int8'"
        )
    return problems


def problems_with_recipe(
    recipe: RecipeChoice, *, runtime: str, userland: str, features: Collection[str]
) -> tuple[str, ...]:
    """Say why a recipe can not work, or can only work slowly, on a runtime and CPU.

    Args:
        recipe: The formats and activations.
        runtime: "onnx" or "tflite".
        userland: What the programs are built for: aarch64, armv7l or x86_64.
        features: The CPU's ISA features, in the names of vocabulary.FEATURE_ISA.

    Returns:
        One sentence a problem; empty when the recipe fits.
    """
    if runtime not in RUNTIMES:
        return (unknown("runtime", runtime, RUNTIMES),)
    if runtime == "onnx":
        return tuple(_problems_on_onnx(recipe, features))
    return tuple(_problems_on_tflite(recipe, userland))
