"""Write docs/fit.md: what well-known models take on every board, and whether they fit.

The sums are those of `edgewise plan`, from the true configurations in tests/data/configs:

    python scripts/fit_table.py           # write docs/fit.md
    python scripts/fit_table.py --check   # exit with 1 if it is not what the code gives
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from edgewise.exporter.forecast import Forecast, forecast, read_configuration
from edgewise.exporter.plan import PlanError
from edgewise.firmware_profiles import Profile, available_profiles, load_profile

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "fit.md"
CONFIGS = ROOT / "tests" / "data" / "configs"
GIBIBYTE = 1 << 30  # bytes
CONTEXT = 2048  # tokens at most
# What people call them, by the file of the configuration: encoders and encoder-decoders, decoders.
MODELS = {
    "all-minilm-l6-v2": "MiniLM-L6 (embeddings)",
    "flame": "FLAME",
    "flan-t5-small": "Flan-T5-small",
    "roberta-base": "RoBERTa-base",
    "slade": "SLaDe",
    "flan-t5-base": "Flan-T5-base",
    "roberta-large": "RoBERTa-large",
    "flan-t5-large": "Flan-T5-large",
    "flan-t5-xl": "Flan-T5-XL",
    "ul2": "UL2-20B",
    "smollm2-135m": "SmolLM2-135M",
    "gemma-3-270m": "Gemma 3 270M",
    "litellama-460m": "LiteLlama-460M",
    "qwen2.5-coder-0.5b": "Qwen2.5-Coder-0.5B",
    "qwen3-0.6b": "Qwen3-0.6B",
    "tinyllama-1.1b": "TinyLlama-1.1B",
    "phi-1_5": "Phi-1, Phi-1.5, TinyGSM",
    "phi-2": "Phi-2",
    "llava-phi": "LLaVA-Phi",
    "phi-3-mini-4k": "Phi-3-mini-4k",
    "orca-2-7b": "Orca-2-7B",
    "orca-2-13b": "Orca-2-13B",
}
ENCODER = "roberta-base"  # stands for all of them where recipes are listed
HEAD = """\
# What fits which board

Memory at the peak in GiB: weights by the recipe that the board takes by itself, the cache of up to
{context} tokens (float16 by onnxruntime, float32 by TFLite), what an encoder works with on its
longest text (a vision tower on an image), and the runtime. In brackets what the board leaves to a
model. **no** says by how much it is too much, and a context that would fit if only the cache is too
large. Sums of shapes, not measurements; `edgewise plan` makes them for any configuration, recipe
and size of RAM.

`scripts/fit_table.py` writes this page.
"""


def document() -> str:
    """Return the whole page."""
    boards = [load_profile(name) for name in available_profiles()]
    titles = [
        f"`{board.qualified_name}` ({board.memory.usable_bytes / GIBIBYTE:.1f})" for board in boards
    ]
    lines = [
        HEAD.format(context=f"{CONTEXT:,}"),
        f"| model | parameters | {' | '.join(titles)} |",
        f"|---|---:|{'---|' * len(boards)}",
    ]
    for name, title in MODELS.items():
        config = read_configuration(CONFIGS / f"{name}.json")
        found = [_forecast(config, board) for board in boards]
        cells = " | ".join(map(_cell, found))
        lines.append(f"| {title} | {found[0].plan.parameters:,} | {cells} |")
    lines += ["", "| board | runtime | recipe | of encoders |", "|---|---|---|---|"]
    encoder = read_configuration(CONFIGS / f"{ENCODER}.json")
    for board in boards:
        of_encoders = forecast(encoder, board).plan.recipe
        row = (f"`{board.qualified_name}`", board.runtime, f"`{board.recipe}`", f"`{of_encoders}`")
        lines.append(f"| {' | '.join(row)} |")
    lines.append("")
    return "\n".join(lines)


def _forecast(config: dict[str, Any], board: Profile) -> Forecast:
    try:
        found = forecast(config, board)
    except PlanError:  # the board's own context holds no image
        return forecast(config, board, context_length=CONTEXT)
    if found.plan.context_length > CONTEXT:
        found = forecast(config, board, context_length=CONTEXT)
    return found


def _cell(found: Forecast) -> str:
    budget = found.budget
    if budget.fits:
        return f"{budget.total_bytes / GIBIBYTE:.2f}"
    cell = f"**no**, +{-found.spare_bytes / GIBIBYTE:.2f}"
    context = budget.largest_context
    if found.plan.family == "vision_language" and context <= budget.working_tokens:
        context = 0  # an image takes as many of it
    return f"{cell}; {context} tokens fit" if context else cell


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    text = document()
    if arguments.check:
        return int(DOCUMENT.read_text(encoding="utf-8") != text)
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
