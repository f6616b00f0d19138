"""What every vision-language model declares, whatever its architecture.

Its vision tower turns an image into states, a projector turns these into vectors of the decoder's
width, and the decoder reads them in the place of a prompt's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.exporter.models.clip_vision import VisionConfiguration
from edgewise.exporter.models.decoder import DecoderConfiguration

IMAGE_FEATURES = "image_features"
EMBEDDINGS = "inputs_embeds"


@dataclass(frozen=True)
class VisionLanguageConfiguration:
    """The constants of a vision-language model.

    Attributes:
        vision: Of the tower.
        text: Of the decoder.
        tower: What stands before the names of the tower's tensors.
        projector: Names of the projector's matrices, from the tower's states on; between two of
            them stands a GELU.
        text_type: Which definition is the decoder's.
        cuts_images: Whether an image processor that does not say otherwise cuts the middle out of
            an image; without, bars make it a square.
    """

    vision: VisionConfiguration
    text: DecoderConfiguration
    tower: str
    projector: tuple[str, ...]
    text_type: str = "phi"
    cuts_images: bool = False

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding."""
        return self.text.vocabulary_size

    @property
    def context_length(self) -> int:
        """Positions the model was made for, those of images among them."""
        return self.text.context_length
