"""One round of onnxruntime-genai on a model folder, as a line of JSON.

Runs in an environment that has onnxruntime-genai and numpy; see ``benchmarks/compare.py``.
"""

from __future__ import annotations

import time

BEGIN = time.perf_counter()

import json  # noqa: E402 - the clock starts before anything is imported
import resource  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import onnxruntime_genai as genai  # noqa: E402


def main() -> int:
    model_folder, prompt_tokens, history, new_tokens, threads = sys.argv[1], *map(int, sys.argv[2:6])
    config = genai.Config(model_folder)
    config.overlay(
        json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}})
    )
    model = genai.Model(config)
    genai.Tokenizer(model)
    vocabulary = json.loads((Path(model_folder) / "genai_config.json").read_text())["model"][
        "vocab_size"
    ]
    random = np.random.default_rng(0)
    prompt = random.integers(10, vocabulary - 10, prompt_tokens).astype(np.int32)

    def run(ids: np.ndarray, count: int) -> tuple[float, float]:
        """Return the seconds to the first token and those of all after it."""
        begin = time.perf_counter()
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(
            max_length=prompt_tokens + new_tokens + 8, min_length=len(ids) + count, do_sample=False
        )
        generator = genai.Generator(model, parameters)
        generator.append_tokens(ids)
        generator.generate_next_token()
        first = time.perf_counter() - begin
        for _ in range(count - 1):
            generator.generate_next_token()
        return first, time.perf_counter() - begin - first

    run(prompt[:history], 1)
    cold = time.perf_counter() - BEGIN
    prefill, _ = run(prompt, 1)
    _, decode = run(prompt[:history], new_tokens)
    status = Path("/proc/self/status").read_text()
    anonymous = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    print(
        json.dumps(
            {
                "cold_first_token_seconds": cold,
                "prefill_tokens_per_second": prompt_tokens / prefill,
                "decode_tokens_per_second": (new_tokens - 1) / decode,
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "anonymous_rss_mib": int(anonymous.split()[1]) / 1024,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
