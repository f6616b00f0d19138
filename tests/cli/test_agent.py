"""``edgewise agent`` and ``edgewise request``, each a process of its own, over a real broker."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket

import pytest
from running_command import RunningCommand

from edgewise.cli.slots import default_slots
from edgewise.device.topics import DEFAULT_ROOT
from edgewise.firmware_profiles import load_profile
from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.fake_bundle import write_fake_bundle, write_fake_sequence_bundle
from edgewise.runtime.bundle import open_bundle

REPLY = "The capital of France is Paris 🙂."
FINAL = {
    "id": str,
    "status": str,
    "text": str,
    "n_chunks": int,
    "usage": {
        "prompt_tokens": int,
        "generated_tokens": int,
        "queue_ms": float,
        "time_to_first_token_ms": float,
        "total_ms": float,
        "tokens_per_second": float,
        "peak_rss_bytes": int,
        "reused_tokens": int,
    },
    "finish_reason": (str, type(None)),
}


@pytest.fixture(autouse=True)
def _protocol_of_the_embedded_broker(monkeypatch):
    """Spare each request the seconds in which MQTT 5 gets no answer; one test leaves them in."""
    monkeypatch.setenv("EDGEWISE_REQUEST_PROTOCOL", "3.1.1")


class RunningAgent(RunningCommand):
    """An agent with an embedded broker."""

    def __init__(self, process):
        super().__init__(process, begun="Connected to")
        self.url = self.line_with("listens on").split()[-1].rstrip(".")


@pytest.fixture
def start_agent(spawn):
    def start(bundle, *options, device="kitchen"):
        arguments = ("agent", "--bundle", bundle, "--device", device, "--embedded-broker")
        return RunningAgent(spawn(*arguments, *options))

    return start


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """One agent for the tests that leave it as it is."""
    import subprocess
    import sys

    bundle = write_fake_bundle(tmp_path_factory.mktemp("agent") / "bundle")
    command = [sys.executable, "-m", "edgewise.cli", "agent", "--bundle", str(bundle)]
    process = subprocess.Popen(
        [*command, "--device", "kitchen", "--embedded-broker"], stderr=subprocess.PIPE
    )
    yield RunningAgent(process)
    process.kill()
    process.wait()


def test_the_answer_comes_as_text_and_the_figures_on_stderr(edgewise, agent):
    result = edgewise("request", "--broker", agent.url, "--device", "kitchen", "Hi")
    assert result.code == 0
    assert result.out == REPLY + "\n"
    assert result.err.startswith("[5 prompt tokens | 37 generated | first token after ")
    assert "tokens/s | peak memory " in result.err


def test_json_is_the_final_message(edgewise, agent, check_shape):
    arguments = ("request", "--broker", agent.url, "--device", "kitchen", "Hi", "--json")
    result = edgewise(*arguments)
    assert (result.code, result.err) == (0, "")
    value = json.loads(result.out)
    check_shape(value, FINAL)
    assert (value["status"], value["text"], value["finish_reason"]) == ("ok", REPLY, "stop")


def test_options_reach_the_device(edgewise, agent):
    def ask(*options, stdin=b""):
        arguments = ("request", "--broker", agent.url, "--device", "kitchen", "--json")
        result = edgewise(*arguments, *options, stdin=stdin)
        assert result.code == 0, result.err
        return json.loads(result.out)

    assert ask("Hi", "--max-tokens", "3")["text"] == "The"
    assert ask("Hi", "--max-tokens", "3")["finish_reason"] == "length"
    told = ask("Hi", "--max-tokens", "3", "--logprobs", "1")["logprobs"]
    assert "".join(one["likeliest"][0]["text"] for one in told) == "The"
    assert ask("Hi", "--regex", "x+y", "--max-tokens", "9")["text"].strip("x") in ("", "y")
    assert ask("Hi", "--stop", " France")["text"] == "The capital of"
    assert ask("Hi", "--system", "Be brief")["usage"]["prompt_tokens"] == 5 + 10
    assert ask("Hi", "--raw", "--max-tokens", "1")["usage"]["prompt_tokens"] == 2
    assert ask(stdin=b"Hello\n")["usage"]["prompt_tokens"] == 5 + 3
    assert ask("-", stdin=b"Hello\n", )["usage"]["prompt_tokens"] == 5 + 3  # fmt: skip
    hot = ("Hi", "--raw", "--temperature", "5", "--max-tokens", "9")
    assert ask(*hot, "--seed", "1")["text"] == ask(*hot, "--seed", "1")["text"]
    assert ask(*hot, "--seed", "1")["text"] != ask(*hot, "--seed", "2")["text"]
    for priority in ("0", "9"):
        assert ask("Hi", "--priority", priority, "--client", "sensor-1")["text"] == REPLY


def test_the_broker_can_stand_in_the_environment(edgewise, agent, monkeypatch):
    monkeypatch.setenv("EDGEWISE_REQUEST_BROKER", agent.url)
    monkeypatch.setenv("EDGEWISE_REQUEST_DEVICE", "kitchen")
    assert edgewise("request", "Hi").out == REPLY + "\n"


def test_a_broker_of_the_older_mqtt_is_found_out(edgewise, agent, monkeypatch):
    monkeypatch.delenv("EDGEWISE_REQUEST_PROTOCOL")
    arguments = ("request", "--broker", agent.url, "--device", "kitchen", "Hi")
    assert edgewise(*arguments).out == REPLY + "\n"


def test_what_the_device_refuses_is_one_sentence(edgewise, agent):
    arguments = ("request", "--broker", agent.url, "--device", "kitchen")
    message = edgewise(*arguments, "x" * 300).mistake()
    assert "303 tokens" in message
    assert "256" in message
    assert "empty" in edgewise(*arguments, "").mistake()
    assert "standard input is empty" in edgewise(*arguments).mistake()


def test_a_device_that_is_not_there_is_told_with_those_that_are(edgewise, agent):
    message = edgewise("request", "--broker", agent.url, "--device", "garden", "Hi").mistake()
    assert "'garden'" in message
    assert "kitchen" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--broker", "localhost:1883"], "mqtt://"),
        (["--broker", "http://localhost"], "http://"),
        (["--broker", "mqtt://"], "no host"),
        (["--broker", "mqtt://h:99999"], "cannot be read"),
        (["--broker", "mqtt://h/path"], "after the port"),
        (["--broker", "mqtt://127.0.0.1:1"], "mqtt://127.0.0.1:1"),
        (["--broker", "mqtt://host.invalid"], "host.invalid"),
        (["--device", "a/b"], "'a/b'"),
        (["--device", ""], "device name"),
        (["--client", "a+b"], "'a+b'"),
        (["--root", "#"], "'#'"),
        (["--deadline", "0"], "--deadline"),
        (["--deadline", "nan"], "--deadline"),
        (["--deadline", "inf"], "--deadline"),
        (["--priority", "10"], "0<=x<=9"),
        (["--protocol", "4"], "3.1.1"),
        (["--tls-key", "key.pem"], "--tls-cert"),
        (["--tls-ca", "ca.pem"], "mqtts"),
        (["--broker", "mqtts://127.0.0.1:1", "--tls-ca", "none.pem"], "none.pem"),
        (["--temperature", "-1"], "temperature"),
        (["--raw", "--system", "S"], "--system"),
    ],
)
def test_a_request_that_can_not_be_made(edgewise, options, expected):
    defaults = {"--broker": "mqtt://127.0.0.1:1", "--device": "kitchen"}
    for name, value in defaults.items():
        if name not in options:
            options = [*options, name, value]
    assert expected in edgewise("request", *options, "Hi").mistake()


def test_a_password_is_in_no_message(edgewise):
    arguments = ("--broker", "mqtt://user:hunter2@127.0.0.1:1", "--device", "kitchen", "Hi")
    assert "hunter2" not in edgewise("request", *arguments).mistake()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "--broker"),
        (["--broker", "localhost"], "mqtt://"),
        (["--broker", "mqtt://broker.lan", "--embedded-broker"], "127.0.0.1"),
        (["--broker", "mqtts://127.0.0.1", "--embedded-broker"], "127.0.0.1"),
        (["--broker", "mqtt://127.0.0.1:1", "--tls-key", "k.pem"], "--tls-cert"),
        (["--broker", "mqtt://127.0.0.1:1", "--tls-ca", "ca.pem"], "mqtts"),
        (["--broker", "mqtt://127.0.0.1:1", "--root", "a//b"], "root name"),
        (["--broker", "mqtt://127.0.0.1:1", "--threads", "0"], "threads is 0"),
        (["--broker", "mqtt://127.0.0.1:1", "--context", "9999"], "context_length is 9999"),
        (["--broker", "mqtt://127.0.0.1:1", "--slots", "65"], "slots is 65"),
        (["--broker", "mqtt://127.0.0.1:1", "--cache-mib", "0"], "--cache-mib"),
        (["--broker", "mqtt://127.0.0.1:1", "--queue", "0"], "queue_size=0"),
        (["--broker", "mqtt://127.0.0.1:1", "--drain-seconds", "-1"], "stop_grace_seconds=-1"),
    ],
)
def test_an_agent_that_can_not_be_started(edgewise, bundle, options, expected):
    result = edgewise("agent", "--bundle", bundle, "--device", "kitchen", *options)
    assert result.code == 2
    assert expected in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_an_agent_without_its_bundle_or_with_an_impossible_name(edgewise, bundle, tmp_path):
    arguments = ("agent", "--broker", "mqtt://127.0.0.1:1", "--device")
    message = edgewise(*arguments, "kitchen", "--bundle", tmp_path).mistake()
    assert "manifest.json" in message
    result = edgewise(*arguments, "a/b", "--bundle", bundle)
    assert result.code == 2
    assert "'a/b'" in result.err


def test_a_port_that_is_taken_is_one_sentence(edgewise, bundle):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = edgewise(
            "agent", "--bundle", bundle, "--device", "kitchen", "--embedded-broker",
            "--broker", f"mqtt://127.0.0.1:{port}",
        )  # fmt: skip
    assert result.code == 2
    assert f"127.0.0.1:{port}" in result.err.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_agent_in_order(start_agent, bundle, number):
    agent = start_agent(bundle)
    assert agent.stop(number) == 0
    assert agent.lines[-1] == "kitchen has stopped.\n"


def test_what_runs_is_ended_before_the_agent_stops(start_agent, spawn, tmp_path):
    bundle = write_fake_bundle(tmp_path / "b", reply="word " * 20, step_seconds=0.02)
    agent = start_agent(bundle)
    request = spawn("request", "--broker", agent.url, "--device", "kitchen", "Hi")
    begun = os.read(request.stdout.fileno(), 1)
    agent.process.send_signal(signal.SIGTERM)
    out, error = request.communicate(timeout=60)
    assert (begun + out).decode() == "word " * 20 + "\n", error
    assert request.returncode == 0
    assert agent.process.wait(60) == 0


def ask_at_once(spawn, agent, prompts):
    """Send requests and wait until all answers have begun."""
    arguments = ("request", "--broker", agent.url, "--device", "kitchen")
    requests = [spawn(*arguments, prompt) for prompt in prompts]
    return requests, [os.read(request.stdout.fileno(), 1) for request in requests]


def test_all_that_run_are_ended_before_the_agent_stops(start_agent, spawn, tmp_path):
    bundle = write_fake_bundle(
        tmp_path / "b", reply="word " * 20, step_seconds=0.02, context_length=1000
    )
    agent = start_agent(bundle, "--slots", "3", "--drain-seconds", "60")
    requests, begun = ask_at_once(spawn, agent, ["a", "b", "c"])
    agent.process.send_signal(signal.SIGTERM)
    for request, first in zip(requests, begun, strict=True):
        out, error = request.communicate(timeout=60)
        assert (first + out).decode() == "word " * 20 + "\n", error
        assert request.returncode == 0
    assert agent.process.wait(60) == 0
    assert any("3 requests at once" in line for line in agent.lines)


def test_what_takes_too_long_is_cut_short_when_the_agent_stops(start_agent, spawn, slow_bundle):
    agent = start_agent(slow_bundle, "--slots", "2", "--drain-seconds", "0.2", "--cache-mib", "1")
    requests, begun = ask_at_once(spawn, agent, ["a", "b"])
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(60) == 0
    assert agent.lines[-1] == "kitchen has stopped.\n"
    for request, first in zip(requests, begun, strict=True):
        out, error = request.communicate(timeout=60)
        assert (first + out).startswith(b"w")
        assert b"ended the answer early: interrupted" in error
        assert b"Traceback" not in error
        assert request.returncode == 2


def test_without_slots_there_are_as_many_as_the_profile_advises(bundle, tmp_path):
    manifest = open_bundle(bundle).manifest
    assert default_slots(manifest) == load_profile(manifest.profile).slots == 4
    small = dataclasses.replace(manifest, profile="raspberry_pi_3")
    assert default_slots(small) == 2
    assert default_slots(dataclasses.replace(manifest, profile="raspberry_pi_5:16gb")) == 4
    assert default_slots(dataclasses.replace(manifest, profile="board_of_my_own")) == 1
    sequence = open_bundle(write_fake_sequence_bundle(tmp_path / "s")).manifest
    assert default_slots(sequence) == 1


def test_ctrl_c_cancels_on_the_device_too(start_agent, spawn, edgewise, slow_bundle):
    agent = start_agent(slow_bundle)  # a whole answer would take 25 seconds
    request = spawn("request", "--broker", agent.url, "--device", "kitchen", "Hi")
    begun = os.read(request.stdout.fileno(), 1)
    assert begun == b"w"
    assert request.poll() is None
    request.send_signal(signal.SIGINT)
    out, error = request.communicate(timeout=60)
    assert request.returncode == 130
    assert (begun + out).endswith(b"\n")
    assert error.endswith(b"Interrupted.\n")
    assert b"Traceback" not in error
    arguments = ("request", "--broker", agent.url, "--device", "kitchen", "--max-tokens", "2")
    after = edgewise(*arguments, "--json", "Hi")
    assert json.loads(after.out)["usage"]["queue_ms"] < 5000
    assert agent.stop(signal.SIGTERM) == 0


def test_a_deadline_that_passes_is_one_sentence(edgewise, start_agent, slow_bundle):
    agent = start_agent(slow_bundle)
    arguments = ("request", "--broker", agent.url, "--device", "kitchen", "--deadline", "0.6")
    result = edgewise(*arguments, "Hi")
    assert result.code == 2
    assert "timeout" in result.err
    assert result.err.startswith("Error: ")
    assert agent.stop(signal.SIGINT) == 0


def test_an_agent_with_a_root_a_port_and_a_shorter_context(start_agent, edgewise, bundle):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"mqtt://127.0.0.1:{port}"
    agent = start_agent(
        bundle, "--broker", url, "--root", "house/cellar", "--context", "20", "--threads", "1"
    )
    assert agent.url == url
    assert DEFAULT_ROOT == "edgewise"
    arguments = ("request", "--broker", url, "--device", "kitchen", "--root", "house/cellar")
    assert edgewise(*arguments, "Hi").out == "The capital of F\n"
    assert "holds 20" in edgewise(*arguments, "x" * 30).mistake()
    assert agent.stop(signal.SIGTERM) == 0


def test_a_request_may_search_with_as_many_beams_as_the_agent_has_slots(
    start_agent, edgewise, tmp_path
):
    folder = write_fake_sequence_bundle(tmp_path / "b", reply="", context_length=16)
    agent = start_agent(folder, "--slots", "4")
    search = ("--beams", "4", "--beam-groups", "2", "--diversity-penalty", "1.5")
    arguments = ("request", "--broker", agent.url, "--device", "kitchen", "x", "--json")
    result = edgewise(*arguments, *search, "--length-penalty", "0")
    options = GenerationOptions(
        beams=4, beam_groups=2, diversity_penalty=1.5, length_penalty=0, max_tokens=256
    )
    with load(folder, slots=4) as model:
        expected = model.candidates("x", options)[0]
    value = json.loads(result.out)
    assert value["text"] == expected.text
    assert value["usage"]["generated_tokens"] == len(expected.token_ids)
    refused = edgewise(*arguments, "--beams", "5").mistake()
    assert "beams is 5; accepted: up to 4" in refused
    assert agent.stop(signal.SIGTERM) == 0
