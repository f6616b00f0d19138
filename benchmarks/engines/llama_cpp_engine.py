"""llama.cpp on a GGUF file, by its own llama-bench and llama-server; see ``benchmarks/compare.py``.

The programs are looked for on PATH, or in the folder that LLAMA_CPP_BIN names. llama-bench times
what one stream does: prompts from an empty cache, generation behind a history, each after a warm-up
and as often as with the other engines. A cold start is its whole life, with a prompt and no
warm-up; peaks of memory are watched from here. What needs a server is asked of llama-server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from llama_server import started
from measuring import Figures, timed
from memory_peak import MemoryPeak
from workload import Workload

SERVER_KINDS = ("together", "template", "extraction")
CONTEXT_STEP = 256  # tokens; its caches are multiples of it


def main() -> int:
    """Run one workload."""
    workload = Workload.read()
    print(json.dumps(_figures(workload)))
    return 0


def _figures(workload: Workload) -> Figures:
    if workload.kind in SERVER_KINDS:
        with started(_server_command(workload)) as server:
            return timed(server, workload)
    match workload.kind:
        case "speed":
            return _speed(workload)
        case "cold":
            begin = time.monotonic()
            _run(_bench_command(workload, workload.histories, 0, ["--no-warmup"]))
            return {"cold_seconds": time.monotonic() - begin}
        case "memory":
            return _memory(workload)
    return {}  # it packs nothing


def _speed(workload: Workload) -> Figures:
    repeats = ["-r", str(workload.repeats)]
    figures = {}
    if workload.prefill:
        for test in _run(_bench_command(workload, workload.prefill, 0, repeats)):
            figures[f"prefill_{test['n_prompt']}"] = float(test["avg_ts"])
    if workload.histories:
        depths = ["-d", ",".join(map(str, workload.histories)), *repeats]
        for test in _run(_bench_command(workload, (0,), workload.new_tokens, depths)):
            figures[f"decode_{test['n_depth']}"] = float(test["avg_ts"])
    return figures


def _memory(workload: Workload) -> Figures:
    depth = ["-d", str(workload.context - workload.new_tokens), "--no-warmup"]
    command = _bench_command(workload, (0,), workload.new_tokens, depth)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        with MemoryPeak(process.pid) as memory:
            process.communicate()
        if process.returncode:
            raise SystemExit(f"{command} failed")
    return memory.figures()


def _bench_command(
    workload: Workload, prompts: tuple[int, ...], new_tokens: int, more: list[str]
) -> list[str]:
    prompt = ",".join(map(str, prompts))
    sizes = ["-t", str(workload.threads), "-p", prompt, "-n", str(new_tokens)]
    once = [] if "-r" in more else ["-r", "1"]
    return [_program("llama-bench"), "-m", workload.model, *sizes, "-o", "json", *once, *more]


def _server_command(workload: Workload) -> list[str]:
    context = -(-workload.context // CONTEXT_STEP) * CONTEXT_STEP
    threads = str(workload.threads)
    return [
        *(_program("llama-server"), "-m", workload.model, "-t", threads, "-tb", threads),
        *("-np", str(workload.slots), "-c", str(workload.slots * context), "--no-webui"),
    ]


def _program(name: str) -> str:
    program = shutil.which(name, path=os.environ.get("LLAMA_CPP_BIN"))
    if program is None:
        raise SystemExit(
            f"{name} is not on PATH: build llama.cpp, as --set-up llama_cpp DIR does, and set"
            " LLAMA_CPP_BIN to the folder with llama-bench and llama-server"
        )
    return program


def _run(command: list[str]) -> list[dict[str, Any]]:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{completed.stderr}")
    tests: list[dict[str, Any]] = json.loads(completed.stdout)
    return tests


if __name__ == "__main__":
    sys.exit(main())
