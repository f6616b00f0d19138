"""llama.cpp on a GGUF file, by its own llama-bench; see ``benchmarks/compare.py``.

The program is looked for on PATH, or in the folder that LLAMA_CPP_BIN names. What is timed is what
the other engines do: prompts from an empty cache, generation behind a history, each after a warm-up
and as often. A cold start is the program's whole life, with a prompt and no warm-up; peaks of
memory are watched from here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from workload import REPEATS, AnonymousPeak, Figures, Workload


def main() -> int:
    """Run one workload."""
    workload = Workload.read()
    print(json.dumps(_figures(workload)))
    return 0


def _figures(workload: Workload) -> Figures:
    if workload.kind == "cold_packing":
        return {}
    if workload.kind == "memory":
        command = _command(workload, workload.prefill[-1:], workload.new_tokens, ["--no-warmup"])
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            with AnonymousPeak(process.pid) as memory:
                process.communicate()
            if process.returncode:
                raise SystemExit(f"{command} failed")
        return memory.figures()
    if workload.kind == "cold":
        prompt = (min(workload.histories),)
        begin = time.monotonic()
        _run(_command(workload, prompt, 0, ["--no-warmup"]))
        return {"cold_seconds": time.monotonic() - begin}
    repeats = ["-r", str(REPEATS)]
    figures = {
        f"prefill_{test['n_prompt']}": float(test["avg_ts"])
        for test in _run(_command(workload, workload.prefill, 0, repeats))
    }
    depths = ["-d", ",".join(map(str, workload.histories)), *repeats]
    for test in _run(_command(workload, (0,), workload.new_tokens, depths)):
        figures[f"decode_{test['n_depth']}"] = float(test["avg_ts"])
    return figures


def _command(
    workload: Workload, prompts: tuple[int, ...], new_tokens: int, more: list[str]
) -> list[str]:
    program = shutil.which("llama-bench", path=os.environ.get("LLAMA_CPP_BIN"))
    if program is None:
        raise SystemExit(
            "llama-bench is not on PATH: build llama.cpp and set LLAMA_CPP_BIN to the folder with "
            "its programs"
        )
    prompt = ",".join(map(str, prompts))
    sizes = ["-t", str(workload.threads), "-p", prompt, "-n", str(new_tokens)]
    once = [] if "-r" in more else ["-r", "1"]
    return [program, "-m", workload.model, *sizes, "-o", "json", *once, *more]


def _run(command: list[str]) -> list[dict[str, Any]]:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{completed.stderr}")
    tests: list[dict[str, Any]] = json.loads(completed.stdout)
    return tests


if __name__ == "__main__":
    sys.exit(main())
