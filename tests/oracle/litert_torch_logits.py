"""Convert a checkpoint by litert-torch and write the logits of its .tflite, fp32 [T, vocabulary].

    python tests/oracle/litert_torch_logits.py CHECKPOINT IDS.json LOGITS.npy

Runs in an environment of its own, which `scripts/test --litert-torch` makes: torch, transformers
and litert-torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import litert_torch
import numpy as np
import torch
import transformers
from ai_edge_litert.interpreter import Interpreter


class Logits(torch.nn.Module):
    """A model without its cache: ids [1, T] give logits [1, T, vocabulary]."""

    def __init__(self, folder: str) -> None:
        """Load a folder of transformers."""
        super().__init__()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Compute all logits."""
        result: torch.Tensor = self.model(token_ids, use_cache=False).logits
        return result


def main() -> int:
    """Convert, run, write."""
    checkpoint, ids_file, target = sys.argv[1:]
    ids = torch.tensor([json.loads(Path(ids_file).read_text())], dtype=torch.int32)
    converted = litert_torch.convert(Logits(checkpoint).eval(), (ids,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        converted.export(str(path))
        interpreter = Interpreter(str(path))
        runner = interpreter.get_signature_runner()
        (name,) = runner.get_input_details()
        (logits,) = runner(**{name: ids.numpy()}).values()
    np.save(target, logits[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
