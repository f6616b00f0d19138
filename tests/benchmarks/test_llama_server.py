"""What is asked of llama.cpp's server, and what is read from its answers, against a small fake."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import extraction
import pytest
from llama_server import LlamaServer, started
from measuring import ExtractingEngine, ServingEngine, timed
from workload import Workload

FAKE = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"meta": {"n_vocab": 99}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
HTTPServer((arguments["--host"], int(arguments["--port"])), Handler).serve_forever()
"""


class Server(ThreadingHTTPServer):
    request_queue_size = 64


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"data": [{"meta": {"n_vocab": 4096}}]})

    def do_POST(self):
        task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.tasks.append((self.path, task))
        if task["prompt"] == "broken":
            self.reply({"error": "no"}, 500)
            return
        # Reading takes 2 ms for each token that is new behind what is known, writing 10 ms each.
        prompt = task["prompt"]
        known = self.server.known if task["cache_prompt"] else []
        new = len(prompt)
        while known and new and prompt[: len(prompt) - new + 1] == known[: len(prompt) - new + 1]:
            new -= 1
        self.server.known = prompt
        tokens = min(task["n_predict"], self.server.longest)
        self.reply(
            {
                "content": "{}",
                "tokens_predicted": tokens,
                "timings": {
                    "prompt_ms": 2.0 * new,
                    "predicted_ms": 10.0 * (tokens - 1),
                    "predicted_n": tokens,
                },
            }
        )

    def reply(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake():
    server = Server(("127.0.0.1", 0), Handler)
    server.tasks, server.known, server.longest = [], [], 10_000
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(fake):
    return LlamaServer(fake.server_address[1])


def workload(kind, **fields):
    return Workload(kind, "model", threads=1, context=512, begin=0.0, **fields)


def test_ids_are_asked_for_exactly_and_times_are_the_servers(fake, client):
    assert client.vocabulary_size == 4096
    assert client.run([1, 2, 3], 5) == pytest.approx((0.006, 0.040))
    assert fake.tasks == [
        (
            "/completion",
            {
                "prompt": [1, 2, 3],
                "n_predict": 5,
                "ignore_eos": True,
                "temperature": 0,
                "cache_prompt": True,
            },
        )
    ]


def test_an_answer_by_the_schema(fake, client):
    answer = client.extract("report", 40)
    assert (answer.text, answer.tokens) == ("{}", 40)
    assert answer.rate == pytest.approx(100.0)
    task = fake.tasks[0][1]
    assert task["json_schema"] == extraction.SCHEMA
    assert "ignore_eos" not in task


def test_all_prompts_are_sent_and_an_answer_that_is_short_is_no_figure(fake, client):
    prompts = [[number, 7] for number in range(32)]
    assert client.run_together(prompts, 4) > 0
    assert sorted(task["prompt"] for _, task in fake.tasks) == prompts
    fake.longest = 3
    with pytest.raises(RuntimeError, match="3 tokens came, not 4"):
        client.run_together(prompts, 4)


def test_a_refusal_is_an_error_with_the_servers_words(client):
    with pytest.raises(RuntimeError, match=r"POST /completion: 500 .*no"):
        client.continue_text("broken", 2)


def test_the_template_is_cold_once_and_then_warm(client):
    figures = timed(client, workload("template", shared=40, own=10))
    assert figures == {
        "template_cold_seconds": pytest.approx(0.100),
        "template_warm_seconds": pytest.approx(0.020),
        "template_warm_share": pytest.approx(0.2),
    }


def test_extraction_and_requests_at_once_give_their_figures(fake, client):
    assert isinstance(client, ServingEngine)
    assert isinstance(client, ExtractingEngine)
    figures = timed(client, workload("extraction"))
    assert figures["extraction_gain"] == pytest.approx(1.0)
    assert figures["extraction_valid"] == 0.0  # {} lacks every key
    together = workload("together", requests=3, shared=4, own=2, new_tokens=5)
    assert timed(client, together)["together_3"] > 0
    prompts = [task["prompt"] for _, task in fake.tasks if "ignore_eos" in task][-3:]
    assert {len(prompt) for prompt in prompts} == {6}
    assert len({tuple(prompt[:4]) for prompt in prompts}) == 1


def test_a_server_is_started_on_a_free_port_and_ended():
    with started([sys.executable, "-c", FAKE]) as server:
        assert server.vocabulary_size == 99
        port = server._port
    with pytest.raises(ConnectionRefusedError):
        LlamaServer(port)


def test_a_server_that_ends_at_once_is_told_with_its_output():
    command = [sys.executable, "-c", "print('no such model')"]
    with pytest.raises(SystemExit, match="did not get ready:\nno such model"), started(command):
        pass
