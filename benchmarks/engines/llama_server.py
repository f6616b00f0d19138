"""llama.cpp's server: started, asked over HTTP, ended.

Rules: it listens on the loopback alone, on a free port, and is ended by its process id when the
context is left. Times are the server's own where it gives them, which leaves HTTP out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import extraction
from measuring import Answer

START_SECONDS = 120.0
ANSWER_SECONDS = 300.0
ENDING_SECONDS = 10.0
POLL_SECONDS = 0.05


class LlamaServer:
    """A server that may be running already; `start` makes one."""

    keeps_beginnings = True

    def __init__(self, port: int) -> None:
        """Speak to a server on a port of the loopback; it must be ready."""
        self._port = port
        models = self._get("/v1/models")["data"]
        self.vocabulary_size = int(models[0]["meta"]["n_vocab"])

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """See ``LoadedEngine``; the first token is there when the prompt has been read."""
        times = self._complete({"prompt": list(token_ids), **_exactly(count)})["timings"]
        return times["prompt_ms"] / 1000, times["predicted_ms"] / 1000

    def run_together(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``ServingEngine``; each request has a thread and a connection."""
        task = _exactly(count)
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as threads:
            answers = list(
                threads.map(lambda ids: self._complete({"prompt": list(ids), **task}), prompts)
            )
        seconds = time.perf_counter() - begin
        for answer in answers:
            if answer["tokens_predicted"] != count:
                raise RuntimeError(f"{answer['tokens_predicted']} tokens came, not {count}")
        return seconds

    def extract(self, prompt: str, max_tokens: int) -> Answer:
        """See ``ExtractingEngine``."""
        task = {"prompt": prompt, "n_predict": max_tokens, "json_schema": extraction.SCHEMA}
        return _answer(self._complete(task))

    def continue_text(self, prompt: str, tokens: int) -> Answer:
        """See ``ExtractingEngine``."""
        return _answer(self._complete({"prompt": prompt, **_exactly(tokens)}))

    def _complete(self, task: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", "/completion", {"temperature": 0, "cache_prompt": True, **task})

    def _get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, content: dict[str, Any] | None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection):
            body = None if content is None else json.dumps(content)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:500]!r}")
        answer: dict[str, Any] = json.loads(text)
        return answer


def _exactly(tokens: int) -> dict[str, Any]:
    return {"n_predict": tokens, "ignore_eos": True}


def _answer(answer: dict[str, Any]) -> Answer:
    times = answer["timings"]
    tokens = int(times["predicted_n"])
    # Its count has the first token, whose time is the prompt's.
    return Answer(answer["content"], tokens, (tokens - 1) / (times["predicted_ms"] / 1000))


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[LlamaServer]:
    """Start a server by its command without host and port; give it when it is ready."""
    port = _free_port()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            if not _is_ready(process, port):
                output.seek(0)
                raise SystemExit(
                    f"{' '.join(command)} did not get ready:\n{output.read().decode()[-2000:]}"
                )
            yield LlamaServer(port)
        finally:
            process.terminate()
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        time.sleep(POLL_SECONDS)
    return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
