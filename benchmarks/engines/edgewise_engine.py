"""One round of Edgewise on a bundle, as a line of JSON; see ``benchmarks/compare.py``."""

from __future__ import annotations

import time

BEGIN = time.perf_counter()

import json  # noqa: E402 - the clock starts before anything is imported
import sys  # noqa: E402

import numpy as np  # noqa: E402

from edgewise.common.process_memory import anonymous_rss_bytes, peak_rss_bytes  # noqa: E402
from edgewise.runtime.bundle import open_bundle  # noqa: E402
from edgewise.runtime.engines import engine_factory  # noqa: E402
from edgewise.runtime.kv_cache import SlotTable  # noqa: E402
from edgewise.runtime.sessions.decoder import generate_step  # noqa: E402
from edgewise.runtime.tokenizer import Tokenizer  # noqa: E402


def main() -> int:
    """Run the round and print its figures."""
    model, prompt_tokens, history, new_tokens, threads = sys.argv[1], *map(int, sys.argv[2:6])
    bundle = open_bundle(model)
    Tokenizer.open(bundle)  # part of a cold start, as in the other engines
    capacity = min(bundle.manifest.context_length, prompt_tokens + new_tokens + 8)
    factory = engine_factory(bundle.manifest)
    backend = factory(bundle, threads=threads, slots=1, capacity=capacity)
    slots = SlotTable(1, backend.capacity)
    random = np.random.default_rng(0)
    prompt = random.integers(10, backend.vocabulary_size - 10, prompt_tokens).tolist()

    def run(ids: list[int], count: int) -> tuple[float, float]:
        """Return the seconds to the first token and those of all after it."""
        begin = time.perf_counter()
        steps = generate_step(
            backend, slots, ids, lambda logits: int(logits.argmax()), max_tokens=count, end_ids=()
        )
        first = 0.0
        for token, _ in steps:
            if token is not None and first == 0.0:
                first = time.perf_counter() - begin
        return first, time.perf_counter() - begin - first

    run(prompt[:history], 1)
    cold = time.perf_counter() - BEGIN
    prefill, _ = run(prompt, 1)
    _, decode = run(prompt[:history], new_tokens)
    print(
        json.dumps(
            {
                "cold_first_token_seconds": cold,
                "prefill_tokens_per_second": prompt_tokens / prefill,
                "decode_tokens_per_second": (new_tokens - 1) / decode,
                "peak_rss_mib": peak_rss_bytes() / 2**20,
                "anonymous_rss_mib": (anonymous_rss_bytes() or 0) / 2**20,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
