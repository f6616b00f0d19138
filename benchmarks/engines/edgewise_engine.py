"""Edgewise on a bundle, ONNX or TFLite; see ``benchmarks/compare.py``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from workload import Workload, measure

from edgewise.runtime.backends.litert_cache_file import FOLDER
from edgewise.runtime.bundle import open_bundle
from edgewise.runtime.engines import engine_factory
from edgewise.runtime.kv_cache import SlotTable
from edgewise.runtime.sessions.decoder import generate_step
from edgewise.runtime.tokenizer import Tokenizer


class Edgewise:
    """A bundle's back end, driven as a session does."""

    def __init__(self, workload: Workload) -> None:
        """Load the bundle."""
        bundle = open_bundle(workload.model)
        if bundle.manifest.context_length < workload.capacity:
            raise SystemExit(
                f"{workload.model} holds {bundle.manifest.context_length} tokens, "
                f"{workload.capacity} are needed: export it with a longer context"
            )
        Tokenizer.open(bundle)  # part of a cold start
        factory = engine_factory(bundle.manifest)
        self._backend = factory(
            bundle, threads=workload.threads, slots=1, capacity=workload.capacity
        )
        self._slots = SlotTable(1, self._backend.capacity)
        self.vocabulary_size = self._backend.vocabulary_size

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """See ``LoadedEngine``."""
        begin = time.perf_counter()
        steps = generate_step(
            self._backend,
            self._slots,
            token_ids,
            lambda logits: int(logits.argmax()),
            max_tokens=count,
        )
        first = 0.0
        for token, _ in steps:
            if token is not None and first == 0.0:
                first = time.perf_counter() - begin
        return first, time.perf_counter() - begin - first


def load(workload: Workload) -> Edgewise | None:
    """Load a bundle, for "cold_packing" without what was packed for this machine."""
    if workload.kind == "cold_packing":
        if open_bundle(workload.model).manifest.runtime != "tflite":
            return None
        shutil.rmtree(Path(workload.model) / FOLDER, ignore_errors=True)
    return Edgewise(workload)


if __name__ == "__main__":
    sys.exit(measure(load))
