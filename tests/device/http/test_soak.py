"""Two thousand requests of every kind leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from edgewise.runtime.backends.fake_bundle import write_fake_bundle

pytestmark = pytest.mark.slow

ROUND = 400  # requests
GROWTH_MAX = 4 << 10  # KiB, after the first round
KINDS = (
    {},
    {"stream": True},
    {"temperature": -1},
    {"messages": [{"role": "user", "content": "x" * 300}]},
    {"response_format": {"type": "json_object"}, "max_tokens": 8},
    {"response_format": {"type": "regex", "regex": "("}},
    {"n": 2, "temperature": 1, "logprobs": True, "top_logprobs": 5},
)


def resident_kib(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("the process has no memory")


def entries(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def test_memory_threads_and_files_stay_as_they_are(tmp_path):
    pytest.importorskip("llguidance")
    bundle = write_fake_bundle(tmp_path / "b")
    command = [sys.executable, "-m", "edgewise.cli", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen([*command, "--slots", "4"], stderr=subprocess.PIPE)
    try:
        line = process.stderr.readline().decode()
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        threading.Thread(target=process.stderr.read, daemon=True).start()

        def ask(number):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            body = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
            content = json.dumps(body | KINDS[number % len(KINDS)])
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", content, headers)
            if number % 11:  # else it hangs up at once
                response = connection.getresponse()
                assert response.status in {200, 400}
                response.read()
            connection.close()

        seen = []
        with ThreadPoolExecutor(4) as clients:
            for _ in range(2000 // ROUND):
                list(clients.map(ask, range(ROUND)))
                seen.append(
                    (
                        resident_kib(process.pid),
                        entries(f"/proc/{process.pid}/task"),
                        entries(f"/proc/{process.pid}/fd"),
                    )
                )
        print(seen)
        (first, threads, files), (last, threads_at_end, files_at_end) = seen[0], seen[-1]
        assert last - first < GROWTH_MAX
        assert threads_at_end <= threads
        assert files_at_end <= files + 4  # connections that are being closed
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
