"""Where the time of an ONNX bundle goes: seconds by operator, of a prefill and of decoding.

    python benchmarks/operator_profile.py BUNDLE [--prompt 512] [--tokens 64] [--threads 2]

onnxruntime times every node itself; timing costs some time too, so the sum is above that of an
unobserved run. The largest nodes are listed under the operators, by the module that they come from.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from edgewise.runtime.backends.onnx import OnnxBackend
from edgewise.runtime.bundle import open_bundle

KERNEL = "_kernel_time"
LAYER = re.compile(r"\blayers?\.\d+\b")


def profiled(bundle_path: str, threads: int, work: Callable[[OnnxBackend], None]) -> list[dict]:
    """Return onnxruntime's events of some work, without those of loading and of a first run."""
    bundle = open_bundle(bundle_path)
    capacity = bundle.manifest.context_length
    with tempfile.TemporaryDirectory() as folder:
        backend = OnnxBackend(bundle, threads=threads, slots=1, capacity=capacity)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        backend._session = onnxruntime.InferenceSession(  # the same graph, watched
            str(bundle.file("graph")), options, providers=["CPUExecutionProvider"]
        )
        backend._bindings.clear()
        work(backend)
        events = json.loads(Path(backend._session.end_profiling()).read_text())
        backend.close()
    runs = [event["ts"] for event in events if event["name"] == "model_run"]
    return [
        event
        for event in events
        if event["name"].endswith(KERNEL) and event["ts"] >= sorted(runs)[1]
    ]


def table(events: list[dict], runs: int) -> str:
    """Return milliseconds a run by operator, then by node with the layers of a model together."""
    by_operator: dict[str, float] = defaultdict(float)
    by_node: dict[str, float] = defaultdict(float)
    for event in events:
        milliseconds = event["dur"] / 1000 / runs
        operator = event["args"]["op_name"]
        by_operator[operator] += milliseconds
        node = LAYER.sub("layers.*", event["name"].removesuffix(KERNEL))
        by_node[f"{operator} {node}"] += milliseconds
    total = sum(by_operator.values())
    lines = [f"{total:.2f} ms", "", "| operator | ms | share |", "|---|---|---|"]
    for parts, most in ((by_operator, 8), (by_node, 12)):
        largest = sorted(parts.items(), key=lambda item: -item[1])[:most]
        lines += [f"| {name} | {value:.2f} | {value / total:.0%} |" for name, value in largest]
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prefill")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are decoded")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    ids = np.random.default_rng(0).integers(10, 1000, (1, given.prompt))
    zero = np.zeros(1, np.int32)

    def prefill(backend: OnnxBackend) -> None:
        for _ in range(4):
            backend.step(0, ids, zero)

    def decode(backend: OnnxBackend) -> None:
        backend.step(0, ids[:, :64], zero)
        for place in range(given.tokens):
            backend.step(0, ids[:, :1], np.array([64 + place], np.int32))

    for name, work, runs in (("prefill", prefill, 3), ("decode", decode, given.tokens)):
        events = profiled(given.bundle, given.threads, work)
        print(f"## {name}: {table(events, runs)}\n")


if __name__ == "__main__":
    main()
