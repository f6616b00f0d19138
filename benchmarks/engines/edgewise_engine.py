"""Edgewise on a bundle, ONNX or TFLite; see ``benchmarks/compare.py``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from workload import Workload, measure

from edgewise.runtime.bundle import open_bundle
from edgewise.runtime.cache_folder import FOLDER
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.engines import engine_factory
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import SlotPool
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
        backend = factory(bundle, threads=workload.threads, slots=1, capacity=workload.capacity)
        self._scheduler = Scheduler(backend, SlotPool(1, backend.capacity, reuse=False))
        self.vocabulary_size = backend.vocabulary_size

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """See ``LoadedEngine``."""
        begin = time.perf_counter()
        answer = Decoding(token_ids, lambda logits: int(logits.argmax()), max_tokens=count)
        first = 0.0
        for piece in self._scheduler.run(answer):
            if piece.token_ids and first == 0.0:
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
