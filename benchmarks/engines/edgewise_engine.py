"""Edgewise on a bundle, ONNX or TFLite; see ``benchmarks/compare.py``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import extraction
from measuring import Answer, measure
from workload import Workload

from edgewise.runtime.bundle import open_bundle
from edgewise.runtime.cache_folder import FOLDER
from edgewise.runtime.loading import load_parts
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.output_format import OutputFormat

KINDS_WITH_CACHE = ("together", "template")
EXTRACTION = "extraction"  # answers quote what they are extracted from, so lookup drafts


class Edgewise:
    """A bundle's session, driven as a loaded model drives it, by token ids."""

    def __init__(self, workload: Workload) -> None:
        """Load the bundle, as `edgewise.runtime.load` does."""
        bundle = open_bundle(workload.model)
        backend, self._tokenizer, _ = load_parts(
            bundle, threads=workload.threads, slots=workload.slots, capacity=workload.context
        )
        # What loading has imported meanwhile.
        from edgewise.runtime.decoding import Decoding  # noqa: PLC0415 - as said
        from edgewise.runtime.drafting import PromptLookup  # noqa: PLC0415 - as said
        from edgewise.runtime.sessions.decoder import DecoderSession  # noqa: PLC0415 - as said

        self._decoding: Any = Decoding
        self.keeps_beginnings = workload.kind in KINDS_WITH_CACHE
        self._session = DecoderSession(
            backend,
            self._tokenizer,
            bundle.manifest,
            reuse=self.keeps_beginnings,
            new_drafter=PromptLookup if workload.kind == EXTRACTION else None,
            tokenizer_json=lambda: bundle.read_text("tokenizer"),
        )
        self.vocabulary_size = backend.vocabulary_size

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """See ``LoadedEngine``."""
        begin = time.perf_counter()
        answer = self._decoding(token_ids, lambda logits: int(logits.argmax()), max_tokens=count)
        first = 0.0
        for piece in self._session.scheduler.run(answer):
            if piece.token_ids and first == 0.0:
                first = time.perf_counter() - begin
        return first, time.perf_counter() - begin - first

    def run_together(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``ServingEngine``; each request has a thread, as with a server."""
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as threads:
            list(threads.map(lambda ids: self.run(ids, count), prompts))
        return time.perf_counter() - begin

    def extract(self, prompt: str, max_tokens: int) -> Answer:
        """See ``ExtractingEngine``."""
        options = GenerationOptions(
            max_tokens=max_tokens,
            temperature=0.0,
            raw=True,
            output_format=OutputFormat.json_schema(extraction.SCHEMA),
        )
        generation = self._session.generate(self._tokenizer.encode(prompt), options)
        figures = generation.statistics
        return Answer(generation.text, figures.generated_tokens, figures.decode_tokens_per_second)

    def continue_text(self, prompt: str, tokens: int) -> Answer:
        """See ``ExtractingEngine``."""
        _, seconds = self.run(self._tokenizer.encode(prompt), tokens)
        return Answer("", tokens, (tokens - 1) / seconds)


def load(workload: Workload) -> Edgewise | None:
    """Load a bundle, for "cold_packing" without what was packed for this machine."""
    manifest = open_bundle(workload.model).manifest
    if manifest.context_length < workload.context:
        print(
            f"{workload.model} holds {manifest.context_length} tokens, {workload.context} are"
            " needed: export it with a longer context",
            file=sys.stderr,
        )
        return None
    if workload.kind == "cold_packing":
        if manifest.runtime != "tflite":
            return None
        shutil.rmtree(Path(workload.model) / FOLDER, ignore_errors=True)
    return Edgewise(workload)


if __name__ == "__main__":
    sys.exit(measure(load))
