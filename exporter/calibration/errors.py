"""What may be wrong with a calibration that somebody asked for."""

from edgewise.common.errors import EdgewiseError


class CalibrationError(EdgewiseError):
    """A text, a model or a recipe that can not be calibrated with."""
