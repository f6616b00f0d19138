"""The faults that quantization reports to the person who exports."""

from edgewise.common.errors import EdgewiseError


class QuantizeError(EdgewiseError):
    """Weights that cannot be quantized as asked: not finite, too large, of an unknown type."""


class RecipeError(EdgewiseError):
    """A recipe or weight format that is unknown or contradicts itself."""
