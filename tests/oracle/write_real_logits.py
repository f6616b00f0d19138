"""Compute with transformers what the real models of data/real give, and store or compare it.

Runs in an environment of its own with torch, transformers, accelerate and gguf: transformers reads
the same GGUF file, so its names, its order of rows and its de-quantization are checked as well.

    python tests/oracle/write_real_logits.py           # complete tests/data/real/*.json
    python tests/oracle/write_real_logits.py --check   # compare what is stored with a live run
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from real_models import DATA, NAMES, RealModel

from edgewise.exporter import open_checkpoint

LARGEST = 8  # logits that are kept of a position
POSITIONS = (511, 512, 513, 540)  # about Gemma's window, where a text is that long
TOLERANCE = 1e-3


def token_ids(path: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    with open_checkpoint(str(path)) as checkpoint:
        return Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json).encode(text).ids


def computed(model, ids: list[int]) -> list[dict]:
    positions = [position for position in POSITIONS if position < len(ids)]
    positions.append(len(ids) - 1)
    with torch.no_grad():
        states = model.model(torch.tensor([ids])).last_hidden_state[0, positions]
        logits = model.lm_head(states).numpy()
    best = np.argsort(-logits, axis=1)[:, :LARGEST]
    return [
        {
            "position": position,
            "ids": row.tolist(),
            "logits": [round(float(logits[index, token]), 4) for token in row],
        }
        for index, (position, row) in enumerate(zip(positions, best, strict=True))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    worst = 0.0
    for name in NAMES:
        real = RealModel(name)
        content, path = real.content, real.path()
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=torch.float32,
            attn_implementation="eager",
        ).eval()
        for prompt in content["prompts"]:
            ids = token_ids(path, prompt["text"])
            found = computed(model, ids)
            if check:
                worst = max(
                    worst,
                    *(
                        float(np.abs(np.subtract(row["logits"], stored["logits"])).max())
                        for row, stored in zip(found, prompt["expected"], strict=True)
                    ),
                )
            prompt["token_ids"], prompt["expected"] = ids, found
        if not check:
            (DATA / f"{name}.json").write_text(
                json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            )
        print(f"{name}: " + (f"largest difference {worst:.2g}" if check else "written"))
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
