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
    kind = getattr(transformers, case.config["architectures"][0])
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(case, Path(folder))
        model, loading = kind.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    for kind, names in loading.items():
        if names:
            raise SystemExit(f"{name}: transformers reports {kind}: {names}")
    model.eval()
    with torch.no_grad():
        return {
            f"sequence_{index}": logits_of(model, sequence)
            for index, sequence in enumerate(case.sequences)
        }


def logits_of(model, sequence: tuple[int, ...]) -> np.ndarray:
    """Return the logits of every position; a sequence classifier gives those of its end alone."""
    logits = model(torch.tensor([sequence])).logits
    if logits.ndim == 3:
        return logits[0].numpy()
    ends = range(1, len(sequence) + 1)
    return np.concatenate([model(torch.tensor([sequence[:end]])).logits.numpy() for end in ends])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("names", nargs="*", help="cases; all by default")
    arguments = parser.parse_args()
    worst = 0.0
    for name in arguments.names or CASES:
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
