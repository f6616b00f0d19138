"""Compute with transformers what the tiny checkpoints must give, and store or compare it.

Runs in an environment of its own (torch and transformers are no dependency of Edgewise):

    python tests/oracle/write_logits.py           # write tests/data/logits/*.npz
    python tests/oracle/write_logits.py --check   # compare what is stored with a live run
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoint import CASES, DATA, load_case, write_checkpoint

TOLERANCE = 1e-5


def live_logits(name: str) -> dict[str, np.ndarray]:
    case = load_case(name)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(case, Path(folder))
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    for kind, names in loading.items():
        if names:
            raise SystemExit(f"{name}: transformers reports {kind}: {names}")
    model.eval()
    with torch.no_grad():
        return {
            f"sequence_{index}": model(torch.tensor([sequence])).logits[0].numpy()
            for index, sequence in enumerate(case.sequences)
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    worst = 0.0
    for name in CASES:
        logits = live_logits(name)
        if not arguments.check:
            np.savez_compressed(DATA / "logits" / f"{name}.npz", **logits)
            print(f"{name}: written")
            continue
        stored = load_case(name).expected_logits()
        difference = max(
            float(np.abs(live - kept).max())
            for live, kept in zip(logits.values(), stored, strict=True)
        )
        worst = max(worst, difference)
        print(f"{name}: largest difference {difference:.2g}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
