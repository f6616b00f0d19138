"""Measurements of a bundle: what is measured, in which processes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from edgewise.common.errors import EdgewiseError
from edgewise.device import cold_start, start_figures
from edgewise.device.cold_start import ColdStart, ColdStartError, measure_cold_start
from edgewise.device.profiler import profile_bundle
from edgewise.device.spread import ProfilerError, Spread
from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.chunks import PREFILL_CHUNK


@pytest.fixture
def bundle(tmp_path):
    return write_fake_bundle(tmp_path / "bundle", context_length=256)


@pytest.fixture
def no_processes(monkeypatch):
    """Replace the fresh processes, which other tests look at."""
    calls = []

    def measure(bundle, *, threads, prompt_tokens, new_tokens):
        calls.append((bundle, threads, prompt_tokens, new_tokens))
        number = len(calls)
        return ColdStart(float(number), 10.0 * number, 100 * number, 50 * number)

    monkeypatch.setattr(start_figures, "measure_cold_start", measure)
    return calls


@pytest.fixture
def steps(monkeypatch):
    """Record the (width, past) of every step of the engine."""
    recorded = []
    original = FakeBackend.step

    def step(self, first_slot, token_ids, past_lengths, counts=None):
        recorded.append((token_ids.shape[1], int(past_lengths[0])))
        return original(self, first_slot, token_ids, past_lengths, counts)

    monkeypatch.setattr(FakeBackend, "step", step)
    return recorded


def test_every_step_is_where_it_should_be(bundle, no_processes, steps):
    report = profile_bundle(bundle, prompt_tokens=20, new_tokens=3, history=[50], rounds=2)
    decode = [(1, 20), (1, 21), (1, 22)]
    first_round = [(20, 0), *decode, (20, 0), *decode]  # the engine's own, then to text
    deep = [(20, 50), (1, 70), (1, 71), (1, 72)]
    assert steps == [(20, 0), (1, 20), *first_round * 2, (50, 0), *deep * 2]
    assert [depth.history for depth in report.depths] == [0, 50]
    assert no_processes == [(bundle, None, 20, 3)] * 2


def test_long_prompts_are_read_in_the_runtimes_chunks(tmp_path, no_processes, steps):
    bundle = write_fake_bundle(tmp_path / "b", context_length=1000)
    profile_bundle(bundle, prompt_tokens=2 * PREFILL_CHUNK + 88, new_tokens=1, rounds=1)
    assert steps[:3] == [
        (PREFILL_CHUNK, 0),
        (PREFILL_CHUNK, PREFILL_CHUNK),
        (88, 2 * PREFILL_CHUNK),
    ]
    assert no_processes


def test_speeds_are_tokens_by_seconds(tmp_path, no_processes):
    bundle = write_fake_bundle(tmp_path / "b", step_seconds=0.02)
    report = profile_bundle(bundle, prompt_tokens=100, new_tokens=5, rounds=1)
    # A step sleeps 20 ms at least, so these bounds hold however busy the machine is.
    assert 0 < report.depths[0].prefill_tokens_per_second.median <= 100 / 0.02
    assert 0 < report.depths[0].decode_tokens_per_second.median <= 1 / 0.02
    assert 0 < report.text_decode_tokens_per_second.median <= 1 / 0.02
    assert no_processes


def test_figures_of_fresh_processes_are_summed_up(bundle, no_processes):
    report = profile_bundle(bundle, prompt_tokens=4, new_tokens=2, rounds=5, threads=1)
    assert no_processes == [(bundle, 1, 4, 2)] * 3
    assert report.load_seconds == Spread(2.0, 1.0, 3.0)
    assert report.cold_start_seconds == Spread(20.0, 10.0, 30.0)
    assert report.peak_rss_bytes == 300
    assert report.anonymous_rss_bytes == 150
    assert report.threads == 1


def test_no_figure_of_anonymous_memory_is_none(bundle, monkeypatch):
    start = ColdStart(1.0, 2.0, 3, None)
    monkeypatch.setattr(start_figures, "measure_cold_start", lambda *_a, **_k: start)
    assert profile_bundle(bundle, rounds=1, new_tokens=1).anonymous_rss_bytes is None


@pytest.mark.parametrize(
    ("context", "history", "expected"),
    [
        (4096, (), (512, 128)),
        (641, (), (512, 128)),
        (640, (), (512, 128)),
        (400, (), (300, 100)),
        (256, (), (192, 64)),
        (256, (100,), (117, 39)),
        (2, (), (1, 1)),
    ],
)
def test_defaults_fit_into_the_context(tmp_path, no_processes, context, history, expected):
    bundle = write_fake_bundle(tmp_path / "b", context_length=context)
    report = profile_bundle(bundle, history=history, rounds=1)
    assert (report.prompt_tokens, report.new_tokens) == expected
    assert no_processes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
        ({"new_tokens": 0}, "new_tokens is 0"),
        ({"history": [5, -1]}, "history is -1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"prompt_tokens": 256, "new_tokens": 1}, "257; the context of fake holds 256"),
        ({"history": [256]}, "the context of fake holds 256"),
    ],
)
def test_what_makes_no_sense_is_refused(bundle, no_processes, settings, expected):
    with pytest.raises(ProfilerError, match=expected):
        profile_bundle(bundle, **settings)
    assert no_processes == []


def test_progress_is_told(bundle, no_processes):
    told = []
    profile_bundle(
        bundle,
        prompt_tokens=4,
        new_tokens=1,
        history=[4],
        rounds=2,
        progress=lambda *step: told.append(step),
    )
    assert told[:3] == [("start", 0, 2), ("start", 1, 2), ("start", 2, 2)]
    assert told[3:] == [("measure", done, 4) for done in range(5)]
    assert len(no_processes) == 2


def test_a_fresh_process_is_measured(bundle):
    start = measure_cold_start(bundle, threads=1, prompt_tokens=30, new_tokens=3)
    assert 0 < start.load_seconds < start.first_token_seconds
    assert start.peak_rss_bytes > 1 << 20
    assert start.anonymous_rss_bytes is None or start.anonymous_rss_bytes < start.peak_rss_bytes


def test_a_fresh_process_passes_on_what_is_wrong_with_the_bundle(bundle):
    (bundle / "graph.json").unlink()
    with pytest.raises(ColdStartError, match=r"graph\.json is missing"):
        measure_cold_start(bundle, threads=None, prompt_tokens=1, new_tokens=1)
    assert issubclass(ColdStartError, EdgewiseError)


def test_a_fresh_process_that_fails_otherwise_is_a_fault_of_ours(bundle):
    with pytest.raises(RuntimeError, match="tokens in a slot of 256"):
        measure_cold_start(bundle, threads=None, prompt_tokens=1000, new_tokens=1)


def test_the_measured_process_writes_two_lines(bundle, capsys):
    assert cold_start.main([json.dumps([str(bundle), 1, 4, 2])]) == 0
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(first) == {"load_seconds"}
    assert set(last) == {"peak_rss_bytes", "anonymous_rss_bytes"}


def test_the_report_is_plain_data(bundle, no_processes):
    report = profile_bundle(bundle, prompt_tokens=4, new_tokens=1, rounds=1)
    assert json.loads(json.dumps(dataclasses.asdict(report)))["model_id"] == "fake"
    assert no_processes


def test_the_module_loads_no_engine_before_it_measures():
    code = "import sys, edgewise.device.profiler; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"numpy", "onnxruntime", "tokenizers"}
    assert not heavy & {name.partition(".")[0] for name in result.stdout.split()}
