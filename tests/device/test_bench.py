"""Measurements of encoders and encoder-decoders: what is computed, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from edgewise.device import start_figures
from edgewise.device.bench import bench_bundle
from edgewise.device.cold_start import ColdStart, measure_cold_start
from edgewise.device.encoder_profiler import EncoderReport
from edgewise.device.profiler import DecoderReport
from edgewise.device.sequence_profiler import SequenceReport
from edgewise.device.spread import ProfilerError
from edgewise.runtime.backends.fake_bundle import (
    write_fake_bundle,
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
    write_fake_vision_bundle,
)
from edgewise.runtime.backends.fake_encoder import FakeEncoderBackend, FakeEncoderDecoderBackend


@pytest.fixture
def no_processes(monkeypatch):
    """Replace the fresh processes, which another test looks at."""
    calls = []

    def measure(bundle, *, threads, prompt_tokens, new_tokens):
        calls.append((bundle, threads, prompt_tokens, new_tokens))
        return ColdStart(1.0, 2.0, 300, 200)

    monkeypatch.setattr(start_figures, "measure_cold_start", measure)
    return calls


def test_an_encoder_is_measured_by_length(tmp_path, no_processes, monkeypatch):
    shapes = []
    original = FakeEncoderBackend.encode

    def encode(self, token_ids, counts, token_types=None):
        shapes.append(token_ids.shape)
        assert counts.tolist() == [token_ids.shape[1]] * len(token_ids)
        return original(self, token_ids, counts, token_types)

    monkeypatch.setattr(FakeEncoderBackend, "encode", encode)
    bundle = write_fake_encoder_bundle(tmp_path / "b", step_seconds=0.001)
    report = bench_bundle(bundle, lengths=[20, 5, 20], rounds=2, threads=1)
    assert isinstance(report, EncoderReport)
    of_length = [[(1, tokens), (8, tokens)] + ([(1, tokens)] * 10 + [(8, tokens)]) * 2
                 for tokens in (5, 20)]  # fmt: skip
    assert shapes == [*of_length[0], *of_length[1]]
    assert no_processes == [(bundle, 1, 20, 0)] * 2
    assert [one.tokens for one in report.lengths] == [5, 20]
    for one in report.lengths:
        # A call sleeps 1 ms at least, so these bounds hold however busy the machine is.
        assert 0.001 <= one.latency_seconds.p50 <= one.latency_seconds.p99
        assert 0 < one.texts_per_second.median <= 8 / 0.001
    assert (report.batch, report.rounds, report.threads) == (8, 2, 1)
    assert report.peak_rss_bytes == 300
    assert json.loads(json.dumps(dataclasses.asdict(report)))["model_id"] == "fake"


@pytest.mark.parametrize(
    ("context", "expected"),
    [(1000, [16, 64, 256, 512]), (100, [16, 64, 100]), (64, [16, 64]), (4, [4])],
)
def test_default_lengths_fit_into_the_context(
    tmp_path, no_processes, monkeypatch, context, expected
):
    monkeypatch.setattr(FakeEncoderBackend, "encode", lambda *_arguments: {})
    bundle = write_fake_encoder_bundle(tmp_path / "b", tasks=("embed",), context_length=context)
    report = bench_bundle(bundle, rounds=1)
    assert [one.tokens for one in report.lengths] == expected
    assert no_processes[0][2] == expected[-1]


def test_an_encoder_decoder_reads_and_decodes(tmp_path, no_processes, monkeypatch):
    done = []
    read, step = FakeEncoderDecoderBackend.read_source, FakeEncoderDecoderBackend.step

    def record_read(self, first_slot, token_ids, counts):
        done.append(("read", int(counts[0])))
        read(self, first_slot, token_ids, counts)

    def record_step(self, first_slot, token_ids, past_lengths, counts=None):
        done.append(("step", int(past_lengths[0])))
        return step(self, first_slot, token_ids, past_lengths, counts)

    monkeypatch.setattr(FakeEncoderDecoderBackend, "read_source", record_read)
    monkeypatch.setattr(FakeEncoderDecoderBackend, "step", record_step)
    bundle = write_fake_sequence_bundle(tmp_path / "b", step_seconds=0.001)
    report = bench_bundle(bundle, prompt_tokens=30, new_tokens=3, rounds=2)
    assert isinstance(report, SequenceReport)
    steps = [("step", past) for past in range(3)]
    one_round = [("read", 30), *steps, ("read", 30), *steps, ("step", 3)]
    assert done == [("read", 30), ("step", 0), *one_round * 2]
    assert no_processes == [(bundle, None, 30, 3)] * 2
    assert 0 < report.decode_tokens_per_second.median <= 1 / 0.001
    assert 0 < report.text_decode_tokens_per_second.median <= 1 / 0.001
    assert report.encode_seconds.median > 0


@pytest.mark.parametrize(
    ("source", "context", "expected"), [(500, 500, (128, 64)), (40, 40, (40, 39)), (1, 2, (1, 1))]
)
def test_default_sizes_fit_the_model(tmp_path, no_processes, source, context, expected):
    bundle = write_fake_sequence_bundle(
        tmp_path / "b", source_length=source, context_length=context
    )
    report = bench_bundle(bundle, rounds=1)
    assert (report.source_tokens, report.new_tokens) == expected
    assert no_processes


def test_decoders_and_those_that_see_are_measured_as_before(tmp_path, no_processes):
    for number, write in enumerate((write_fake_bundle, write_fake_vision_bundle)):
        bundle = write(tmp_path / str(number))
        report = bench_bundle(bundle, prompt_tokens=4, new_tokens=2, history=[3], rounds=1)
        assert isinstance(report, DecoderReport)
        assert [depth.history for depth in report.depths] == [0, 3]
    assert len(no_processes) == 2


@pytest.mark.parametrize(
    ("write", "settings", "expected"),
    [
        (write_fake_encoder_bundle, {"lengths": [65]}, "65 tokens; accepted: 1 to 64"),
        (write_fake_encoder_bundle, {"lengths": [0]}, "a length is 0 tokens"),
        (write_fake_encoder_bundle, {"rounds": 0}, "rounds is 0"),
        (
            write_fake_encoder_bundle,
            {"prompt_tokens": 5, "history": [1]},
            "prompt_tokens, history: without meaning for fake, which is of the family encoder",
        ),
        (write_fake_sequence_bundle, {"prompt_tokens": 129}, "reads 128 and has room for 63"),
        (write_fake_sequence_bundle, {"new_tokens": 64}, "reads 128 and has room for 63"),
        (write_fake_sequence_bundle, {"new_tokens": 0}, "new_tokens is 0"),
        (write_fake_sequence_bundle, {"history": (1,)}, "history: without .* encoder-decoder"),
        (write_fake_sequence_bundle, {"lengths": [1]}, "lengths: without meaning"),
        (write_fake_bundle, {"lengths": [1]}, "lengths: without .* family decoder"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, no_processes, write, settings, expected):
    with pytest.raises(ProfilerError, match=expected):
        bench_bundle(write(tmp_path / "b"), **settings)
    assert no_processes == []


@pytest.mark.parametrize("write", [write_fake_encoder_bundle, write_fake_sequence_bundle])
def test_a_fresh_process_is_measured(tmp_path, write):
    start = measure_cold_start(write(tmp_path / "b"), threads=1, prompt_tokens=30, new_tokens=3)
    assert 0 < start.load_seconds < start.first_token_seconds
    assert start.peak_rss_bytes > 1 << 20
