"""Opens checkpoints: ``open_checkpoint(location)`` gives configuration, lazy tensors and tokenizer.

Readers: a Hugging Face folder, a GGUF file, either of them inside an installed package, or fetched
from the Hub. All give the same ``Checkpoint``; what differs between formats ends here.
"""

from edgewise.exporter.checkpoint.checkpoint import (
    Checkpoint,
    Origin,
    Progress,
    Tensor,
    TokenizerFiles,
)
from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.location import open_checkpoint
from edgewise.exporter.checkpoint.tensor_check import check_tensors

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Origin",
    "Progress",
    "Tensor",
    "TokenizerFiles",
    "check_tensors",
    "open_checkpoint",
]
