"""Perplexity of a bundle on a text, through the graph and the cache that a device runs.

    python benchmarks/perplexity.py BUNDLE TEXT --tokens 4096 --window 512

The text is cut into windows that are independent of each other; each is fed token by token, and
every token but a window's first is scored. Compare only figures of one tokenizer and one text.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from edgewise.firmware_profiles import physical_cores
from edgewise.runtime.bundle import open_bundle
from edgewise.runtime.engines import engine_factory
from edgewise.runtime.tokenizer import Tokenizer


def perplexity(bundle_path: Path, text: str, tokens: int, window: int) -> float:
    """Return exp of the mean negative log likelihood a token."""
    bundle = open_bundle(bundle_path)
    ids = np.asarray(Tokenizer.open(bundle).encode(text)[:tokens], np.int64)
    if len(ids) < 2:
        raise SystemExit("the text has fewer than two tokens")
    factory = engine_factory(bundle.manifest)
    backend = factory(bundle, threads=physical_cores(), capacity=window)
    losses: list[float] = []
    past = np.zeros(1, np.int32)
    for start in range(0, len(ids), window):
        chunk = ids[start : start + window]
        for position in range(len(chunk) - 1):
            past[0] = position
            logits = backend.step(0, chunk[None, position : position + 1], past)[0]
            shifted = logits.astype(np.float64) - float(logits.max())
            losses.append(float(np.log(np.exp(shifted).sum()) - shifted[chunk[position + 1]]))
    backend.close()
    return float(np.exp(np.mean(losses)))


def main() -> int:
    """Parse, measure, print a line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=512)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8", errors="replace")
    value = perplexity(arguments.bundle, text, arguments.tokens, arguments.window)
    manifest = open_bundle(arguments.bundle).manifest
    print(json.dumps({"recipe": manifest.recipe, "perplexity": round(value, 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
