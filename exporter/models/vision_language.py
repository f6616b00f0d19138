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

# Of red, green and blue: what CLIP and its towers were trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionLanguageConfiguration:
    """The constants of a vision-language model.

    Attributes:
        vision: Of the tower.
        text: Of the decoder.
        tower: What stands before the names of the tower's tensors.
        projector: Names of the projector's matrices, from the tower's states on; between two of
            them stands a GELU.
        image_mean: Of red, green and blue from 0 to 1; subtracted from an image.
        image_std: By what is left, an image is divided.
    """

    vision: VisionConfiguration
    text: DecoderConfiguration
    tower: str
    projector: tuple[str, ...]
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD
