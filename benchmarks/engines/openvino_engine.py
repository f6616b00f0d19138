"""OpenVINO GenAI on a GGUF file, which it reads by itself; see ``benchmarks/compare.py``.

Runs in an environment that has openvino-genai and numpy. Its cache of beginnings is off but for
the kinds that are about it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import extraction
import numpy as np
import openvino
import openvino_genai as genai
from measuring import Answer, measure
from workload import Workload

KINDS_WITH_CACHE = ("together", "template")


class OpenVino:
    """A pipeline of OpenVINO GenAI."""

    def __init__(self, workload: Workload) -> None:
        """Load the file."""
        self.keeps_beginnings = workload.kind in KINDS_WITH_CACHE
        scheduling = genai.SchedulerConfig()
        scheduling.enable_prefix_caching = self.keeps_beginnings
        scheduling.max_num_seqs = workload.slots
        self._pipeline = genai.LLMPipeline(
            workload.model,
            "CPU",
            scheduler_config=scheduling,
            INFERENCE_NUM_THREADS=workload.threads,
        )
        self._tokenizer = self._pipeline.get_tokenizer()
        self.vocabulary_size = len(self._tokenizer.get_vocab())

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """See ``LoadedEngine``."""
        begin = time.perf_counter()
        figures = self._generate([token_ids], count).perf_metrics
        seconds = time.perf_counter() - begin
        first = figures.get_ttft().mean / 1000
        return first, seconds - first

    def run_together(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``ServingEngine``."""
        begin = time.perf_counter()
        self._generate(prompts, count)
        return time.perf_counter() - begin

    def extract(self, prompt: str, max_tokens: int) -> Answer:
        """See ``ExtractingEngine``."""
        settings = _settings(max_tokens)
        settings.structured_output_config = genai.StructuredOutputConfig(
            json_schema=json.dumps(extraction.SCHEMA)
        )
        return self._answer(prompt, settings)

    def continue_text(self, prompt: str, tokens: int) -> Answer:
        """See ``ExtractingEngine``."""
        return self._answer(prompt, _exactly(tokens))

    def _generate(self, prompts: Sequence[Sequence[int]], count: int) -> genai.EncodedResults:
        ids = np.asarray(prompts, np.int64)
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        answers = self._pipeline.generate(inputs, _exactly(count))
        for tokens in answers.tokens:
            if len(tokens) != count:
                raise SystemExit(f"{len(tokens)} tokens came, not {count}")
        return answers

    def _answer(self, prompt: str, settings: genai.GenerationConfig) -> Answer:
        begin = time.perf_counter()
        answers = self._pipeline.generate(self._tokenizer.encode(prompt), settings)
        seconds = time.perf_counter() - begin - answers.perf_metrics.get_ttft().mean / 1000
        tokens = answers.tokens[0]
        return Answer(self._tokenizer.decode(tokens), len(tokens), (len(tokens) - 1) / seconds)


def _settings(tokens: int) -> genai.GenerationConfig:
    settings = genai.GenerationConfig()
    settings.max_new_tokens = tokens
    settings.apply_chat_template = False
    settings.do_sample = False
    return settings


def _exactly(tokens: int) -> genai.GenerationConfig:
    settings = _settings(tokens)
    settings.ignore_eos = True
    return settings


def load(workload: Workload) -> OpenVino | None:
    """Load a file; nothing is ever packed."""
    return None if workload.kind == "cold_packing" else OpenVino(workload)


if __name__ == "__main__":
    sys.exit(measure(load))
