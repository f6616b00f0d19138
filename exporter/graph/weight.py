"""A model's weight on its way to a builder: a name, a role and numbers that are read when asked.

What is made of a weight (rows, a matrix, its transpose) is as lazy as the weight itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edgewise.exporter.graph.derived_weights import MatrixOf, RowsOf, Shifted, Transposed
from edgewise.exporter.quantize.prepared import PreparedMatrix
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import WeightSource

Role = Literal["embedding", "attention", "mlp", "head", "norm", "bias", "position"]


@dataclass(frozen=True)
class Weight:
    """A named weight of a model and the role by which a recipe chooses its format.

    Attributes:
        name: The checkpoint's, or that of a part.
        role: What it is used for.
        source: The checkpoint's numbers.
        prepared: Matrices by name of which more is decided than the recipe says; this weight may be
            among them, and so may what is made of it.
    """

    name: str
    role: Role
    source: WeightSource
    prepared: Mapping[str, PreparedMatrix] = field(
        default_factory=dict, compare=False, repr=False, kw_only=True
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the checkpoint stores it."""
        return self.source.shape

    def with_role(self, role: Role) -> Weight:
        """Return the same numbers under another role (a tied head reads the embedding)."""
        return replace(self, role=role)

    def rows(self, start: int, stop: int, name: str) -> Weight:
        """Return rows of it as a weight of its own, as where a checkpoint stores several in one."""
        return replace(self, name=name, source=RowsOf(self.source, start, stop))

    def matrix(self, columns: int) -> Weight:
        """Return it as a matrix [rows, columns], zeros behind what its rows hold."""
        return replace(self, source=MatrixOf(self.source, columns))

    def transposed(self) -> Weight:
        """Return it with its axes swapped, as where a matrix is stored [in, out]."""
        return replace(self, source=Transposed(self.source))

    def plus(self, number: float) -> Weight:
        """Return it with a number added everywhere, as where a norm is stored less 1."""
        return replace(self, source=Shifted(self.source, number)) if number else self

    def format_in(self, recipe: Recipe) -> WeightFormat:
        """Return the format that was decided for it, or else that of its role.

        Raises:
            RecipeError: No recipe has a format for its role.
        """
        prepared = self.prepared.get(self.name)
        return recipe.format_for(self.role) if prepared is None else prepared.form

    @property
    def stored(self) -> WeightSource:
        """What its stored form is made of: as prepared, or else the checkpoint's numbers."""
        return self.prepared.get(self.name, self.source)


def pack_name(weights: Sequence[Weight]) -> str:
    """Name a pack after its first weight and how many more follow."""
    first = weights[0].name.removesuffix(".weight")
    return first if len(weights) == 1 else f"{first}+{len(weights) - 1}"
