"""onnxruntime-genai on a model folder; see ``benchmarks/compare.py``.

Runs in an environment that has onnxruntime-genai and numpy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
from workload import Workload, measure


class Genai:
    """A model of onnxruntime-genai."""

    def __init__(self, workload: Workload) -> None:
        """Load the folder."""
        config = genai.Config(workload.model)
        threads = {"intra_op_num_threads": workload.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = genai.Model(config)
        genai.Tokenizer(self._model)
        self._capacity = workload.capacity
        folder = Path(workload.model)
        self.vocabulary_size = int(
            json.loads((folder / "genai_config.json").read_text())["model"]["vocab_size"]
        )

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """See ``LoadedEngine``."""
        begin = time.perf_counter()
        parameters = genai.GeneratorParams(self._model)
        parameters.set_search_options(
            max_length=self._capacity, min_length=len(token_ids) + count, do_sample=False
        )
        generator = genai.Generator(self._model, parameters)
        generator.append_tokens(np.asarray(token_ids, np.int32))
        generator.generate_next_token()
        first = time.perf_counter() - begin
        for _ in range(count - 1):
            generator.generate_next_token()
        return first, time.perf_counter() - begin - first


def load(workload: Workload) -> Genai | None:
    """Load a folder; nothing is ever packed."""
    return None if workload.kind == "cold_packing" else Genai(workload)


if __name__ == "__main__":
    sys.exit(measure(load))
