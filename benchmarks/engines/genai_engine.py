"""onnxruntime-genai on a model folder; see ``benchmarks/compare.py``.

Runs in an environment that has onnxruntime-genai and numpy. Several requests are one batch, which
goes for prompts of one length alone; there is no cache of beginnings.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
from measuring import measure
from workload import Workload


class Genai:
    """A model of onnxruntime-genai."""

    def __init__(self, workload: Workload) -> None:
        """Load the folder."""
        config = genai.Config(workload.model)
        threads = {"intra_op_num_threads": workload.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = genai.Model(config)
        genai.Tokenizer(self._model)
        self._capacity = workload.context
        self._slots = workload.slots
        folder = Path(workload.model)
        self.vocabulary_size = int(
            json.loads((folder / "genai_config.json").read_text())["model"]["vocab_size"]
        )

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """See ``LoadedEngine``."""
        return self._run_batch([token_ids], count)

    def run_together(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``ServingEngine``; as many at a time as there are slots."""
        starts = range(0, len(prompts), self._slots)
        return sum(
            sum(self._run_batch(prompts[start : start + self._slots], count)) for start in starts
        )

    def _run_batch(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
        begin = time.perf_counter()
        parameters = genai.GeneratorParams(self._model)
        parameters.set_search_options(
            max_length=self._capacity,
            min_length=len(prompts[0]) + count,
            do_sample=False,
            batch_size=len(prompts),
        )
        generator = genai.Generator(self._model, parameters)
        generator.append_tokens(np.asarray(prompts, np.int32))
        generator.generate_next_token()
        first = time.perf_counter() - begin
        for _ in range(count - 1):
            generator.generate_next_token()
        return first, time.perf_counter() - begin - first


def load(workload: Workload) -> Genai | None:
    """Load a folder; nothing is ever packed."""
    return None if workload.kind in {"cold_packing", "extraction"} else Genai(workload)


if __name__ == "__main__":
    sys.exit(measure(load))
