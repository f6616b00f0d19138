"""``edgewise run``: prompts from everywhere, text, JSON, mistakes, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions, SamplingDefaults

REPLY = "The capital of France is Paris 🙂."
STATISTICS = {
    "prompt_tokens": int,
    "generated_tokens": int,
    "time_to_first_token_seconds": float,
    "prefill_tokens_per_second": float,
    "decode_tokens_per_second": float,
    "peak_rss_bytes": int,
    "reused_tokens": int,
}


def test_the_text_goes_to_stdout_and_the_figures_to_stderr(edgewise, bundle):
    result = edgewise("run", bundle, "Hi")
    assert result.code == 0
    assert result.out == REPLY + "\n"
    assert result.err.startswith("[5 prompt tokens, 37 generated | first token after ")
    assert result.err.count("\n") == 1
    assert ", decode " in result.err


def test_one_token_alone_has_no_speed_of_decoding(edgewise, bundle):
    figures = edgewise("run", bundle, "Hi", "--max-tokens", "1").err
    assert " 1 generated" in figures
    assert "prefill" in figures
    assert "decode" not in figures


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_standard_input_is_a_prompt(edgewise, bundle, arguments):
    # 4 tokens of the template, one a byte of the text, without the newline that echo adds.
    result = edgewise("run", bundle, *arguments, stdin="Grüße\n".encode())
    assert result.out == REPLY + "\n"
    assert result.err.startswith(f"[{3 + 7} prompt tokens")


def test_an_argument_is_taken_before_standard_input(edgewise, bundle):
    assert edgewise("run", bundle, "Hi", stdin=b"x" * 100).err.startswith("[5 prompt tokens")


def test_a_dash_before_the_prompt_needs_the_usual_mark(edgewise, bundle):
    assert edgewise("run", bundle, "--", "-5 + 3").out == REPLY + "\n"


def test_json_is_one_object(edgewise, bundle, check_shape):
    result = edgewise("run", bundle, "Hi", "--json")
    value = json.loads(result.out)
    check_shape(
        value, {"text": str, "token_ids": [int], "finish_reason": str, "statistics": STATISTICS}
    )
    assert value["text"] == REPLY
    assert value["finish_reason"] == "stop"
    assert len(value["token_ids"]) == value["statistics"]["generated_tokens"] == 37
    assert result.err == ""


def test_json_lines_put_together_are_the_answer(edgewise, bundle, check_shape):
    lines = edgewise("run", bundle, "Hi", "--json", "--stream").out.splitlines()
    pieces = [json.loads(line) for line in lines]
    for piece in pieces[:-1]:
        check_shape(
            piece,
            {
                "text": str,
                "token_ids": [int],
                "finish_reason": type(None),
                "statistics": type(None),
            },
        )
    check_shape(
        pieces[-1],
        {"text": str, "token_ids": [int], "finish_reason": str, "statistics": STATISTICS},
    )
    whole = json.loads(edgewise("run", bundle, "Hi", "--json").out)
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert [token for piece in pieces for token in piece["token_ids"]] == whole["token_ids"]


def test_options_reach_the_sampler(edgewise, bundle):
    def text(*options):
        result = edgewise("run", bundle, "Hi", "--raw", "--max-tokens", "20", "--json", *options)
        return json.loads(result.out)["token_ids"]

    greedy = text()
    assert text() == greedy
    hot = ["--temperature", "5"]
    assert text(*hot, "--seed", "1") == text(*hot, "--seed", "1") != text(*hot, "--seed", "2")
    assert text(*hot, "--seed", "1") != greedy
    assert text(*hot, "--top-k", "1") == greedy
    assert text(*hot, "--top-p", "1e-9") == greedy
    assert text(*hot, "--min-p", "1") == greedy
    assert text("--repetition-penalty", "0.01") != greedy


BIAS = {8: 14.0, 9: 14.5}
BIASES = ("--logit-bias", "8=14", "--logit-bias", "9=14.5")


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (("--temperature", "5", "--typical-p", "0.2"), {"temperature": 5.0, "typical_p": 0.2}),
        (BIASES, {"logit_bias": BIAS}),
        (
            (*BIASES, "--frequency-penalty", "1.5"),
            {"logit_bias": BIAS, "frequency_penalty": 1.5},
        ),
        (
            ("--logit-bias", "8=4", "--presence-penalty", "-2"),
            {"logit_bias": {8: 4.0}, "presence_penalty": -2.0},
        ),
        (
            (*BIASES, "--dry-multiplier", "0.8", "--dry-base", "3", "--dry-allowed-length", "1"),
            {"logit_bias": BIAS, "dry_multiplier": 0.8, "dry_base": 3.0, "dry_allowed_length": 1},
        ),
    ],
)
def test_a_flag_is_the_option_of_the_program(edgewise, bundle, flags, values):
    result = edgewise(
        "run", bundle, "Hi", "--raw", "--max-tokens", "20", "--seed", "1", "--json", *flags
    )
    found = json.loads(result.out)["token_ids"]
    with load(bundle) as model:

        def ids(**values):
            options = GenerationOptions(max_tokens=20, seed=1, raw=True, **values)
            return list(model.generate("Hi", options).token_ids)

        assert found == ids(**values)
        for left_out in values.keys() - {"dry_base", "dry_allowed_length"}:
            assert found != ids(**{name: values[name] for name in values.keys() - {left_out}})


def test_a_bias_is_an_id_and_a_number(edgewise, bundle):
    for faulty in ("8", "=1", "8=", "x=1", "8=x", "1.5=1"):
        message = edgewise("run", bundle, "Hi", "--logit-bias", faulty).mistake()
        assert f"'{faulty}' is not a token's id and a number, such as 42=-1.5." in message
    message = edgewise("run", bundle, "Hi", "--logit-bias", "8=nan").mistake()
    assert "logit_bias has nan for 8; accepted: up to 1024 token ids" in message
    message = edgewise("run", bundle, "Hi", "--logit-bias", "260=1").mistake()
    assert message == "logit_bias has the token 260; accepted by this model: 0 to 259"


def test_a_zero_is_a_value_and_not_the_lack_of_one(edgewise, tmp_path):
    advised = SamplingDefaults(temperature=50.0, top_k=1)
    wild = write_fake_bundle(tmp_path / "wild", defaults=advised)

    def ids(*options):
        arguments = ("run", wild, "Hi", "--raw", "--max-tokens", "9", "--seed", "7", "--json")
        return json.loads(edgewise(*arguments, *options).out)["token_ids"]

    greedy = ids()  # the advised top_k of 1 sees to that
    assert ids("--temperature", "0", "--top-k", "0") == greedy
    assert ids("--top-k", "0") != greedy


def test_stop_texts_end_the_answer(edgewise, bundle):
    options = ("--stop", "nowhere", "--stop", " France")
    assert edgewise("run", bundle, "Hi", *options).out == "The capital of\n"


def test_a_limit_is_told(edgewise, bundle):
    result = edgewise("run", bundle, "Hi", "--max-tokens", "3")
    assert result.out == "The\n"
    assert "3 generated, cut off at the limit" in result.err


def test_a_system_text_comes_first(edgewise, bundle):
    plain = json.loads(edgewise("run", bundle, "Hi", "--json").out)
    told = json.loads(edgewise("run", bundle, "Hi", "--json", "--system", "Be brief").out)
    added = told["statistics"]["prompt_tokens"] - plain["statistics"]["prompt_tokens"]
    assert added == len("Be brief") + 2


def test_a_shorter_context_limits_prompt_and_answer(edgewise, bundle):
    assert edgewise("run", bundle, "Hi", "--context", "10").out == "The ca\n"


def test_a_faulty_option_says_what_is_accepted(edgewise, bundle):
    for option, value, expected in (
        ("--max-tokens", "0", "a whole number from 1"),
        ("--temperature", "-1", "a number from 0 up to 100"),
        ("--temperature", "nan", "a number from 0 up to 100"),
        ("--top-k", "-1", "a whole number from 0"),
        ("--top-p", "0", "a number above 0 up to 1"),
        ("--min-p", "2", "a number from 0 up to 1"),
        ("--repetition-penalty", "0", "a number above 0"),
        ("--seed", "-1", "a whole number from 0"),
        ("--stop", "", "texts of 1 to 1024 characters"),
        ("--threads", "0", "a whole number from 1 to 1024"),
        ("--context", "0", "a whole number from 1 to 256"),
        ("--context", "257", "a whole number from 1 to 256"),
    ):
        assert expected in edgewise("run", bundle, "Hi", option, value).mistake(), option


def test_a_prompt_that_is_too_long_gives_both_numbers(edgewise, bundle):
    message = edgewise("run", bundle, "x" * 300).mistake()
    assert "303 tokens" in message
    assert "holds 256" in message


def test_an_empty_prompt_is_refused(edgewise, bundle):
    assert "empty" in edgewise("run", bundle, "").mistake()
    assert "standard input is empty" in edgewise("run", bundle, "-").mistake()
    assert "standard input is empty" in edgewise("run", bundle, stdin=b"\n").mistake()


def test_what_is_no_text_is_refused(edgewise, bundle):
    assert "no UTF-8 text (byte 2)" in edgewise("run", bundle, stdin=b"ab\xff").mistake()
    assert "surrogate" in edgewise("run", bundle, "a\udcffb").mistake()


def test_too_much_on_standard_input_is_refused(edgewise, bundle, monkeypatch):
    monkeypatch.setattr("edgewise.cli.console.PROMPT_MAX_BYTES", 10)
    assert "10 bytes" in edgewise("run", bundle, stdin=b"x" * 11).mistake()
    assert edgewise("run", bundle, stdin=b"x" * 10).code == 0


def test_contradictions_are_refused(edgewise, bundle):
    assert "--system" in edgewise("run", bundle, "Hi", "--raw", "--system", "S").mistake()


def test_a_bundle_without_a_template_takes_no_system_text(edgewise, tmp_path):
    plain = write_fake_bundle(tmp_path / "plain", chat=False)
    assert edgewise("run", plain, "Hi", "--max-tokens", "1").code == 0
    assert "no chat template" in edgewise("run", plain, "Hi", "--system", "S").mistake()


def test_a_bundle_that_is_not_there(edgewise, tmp_path):
    assert "is not a folder" in edgewise("run", tmp_path / "none", "Hi").mistake()
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in edgewise("run", tmp_path / "file", "Hi").mistake()
    assert "manifest.json" in edgewise("run", tmp_path, "Hi").mistake()


@pytest.mark.parametrize("damage", ["short", "missing", "manifest", "newer", "tokenizer"])
def test_a_damaged_bundle_is_one_sentence(edgewise, bundle, tmp_path, damage):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    manifest = copy / "manifest.json"
    expected = {
        "short": "graph.json has",
        "missing": "graph.json is missing",
        "manifest": "manifest.json is not usable",
        "newer": "upgrade",
        "tokenizer": "the tokenizer encodes",
    }[damage]
    if damage == "short":
        os.truncate(copy / "graph.json", 10)
    elif damage == "missing":
        (copy / "graph.json").unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-20])
    elif damage == "newer":
        value = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(value | {"format_version": 99}))
    else:
        value = json.loads(manifest.read_text())
        value["probes"][0]["ids"][0] += 1
        manifest.write_text(json.dumps(value))
    assert expected in edgewise("run", copy, "Hi").mistake()


def test_text_comes_through_a_pipe_as_it_is_made(spawn, slow_bundle):
    process = spawn("run", slow_bundle, "Hi")
    assert os.read(process.stdout.fileno(), 100) == b"w"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


@pytest.mark.parametrize("json_options", [[], ["--json"], ["--json", "--stream"]])
def test_ctrl_c_cancels_and_exits_with_130(spawn, slow_bundle, json_options):
    process = spawn("run", slow_bundle, "Hi", *json_options)
    if json_options == ["--json"]:  # nothing comes before the end: wait until it loads the model
        give_up = time.monotonic() + 60
        while "tokenizers" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert time.monotonic() < give_up
            time.sleep(0.05)
        begun = b""
    else:
        begun = os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == b"Interrupted.\n"
    if not json_options:
        assert len(begun + out) < 500
        assert (begun + out).endswith(b"\n")
    elif json_options == ["--json"]:
        assert out == b""
    else:
        assert all(json.loads(line) for line in (begun + out).splitlines())


def test_a_terminal_in_another_encoding_loses_nothing(spawn, bundle):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    out, _ = spawn("run", bundle, "Hi", env=environment).communicate(timeout=60)
    assert out.decode("ascii") == "The capital of France is Paris \\U0001f642.\n"
    out, _ = spawn("run", bundle, "Hi", "--json", env=environment).communicate(timeout=60)
    assert json.loads(out.decode("ascii"))["text"] == REPLY


def test_at_a_terminal_a_model_can_not_steer_it(terminal, tmp_path):
    wild = write_fake_bundle(tmp_path / "wild", reply="a\x1b[2Jb\tc")
    screen = terminal("run", wild, "Hi")
    screen.wait_for("prompt tokens")
    assert screen.wait() == 0
    assert "a\ufffd[2Jb\tc" in screen.screen
    assert "\x1b[2J" not in screen.screen


def test_into_a_pipe_the_text_is_as_it_is(edgewise, tmp_path):
    wild = write_fake_bundle(tmp_path / "wild", reply="a\x1b[2Jb\tc")
    assert edgewise("run", wild, "Hi").out == "a\x1b[2Jb\tc\n"


def test_at_a_terminal_a_bar_shows_how_the_prompt_is_read(terminal, tmp_path):
    bundle = write_fake_bundle(tmp_path / "long", context_length=2000, step_seconds=0.2)
    screen = terminal("run", bundle, "x" * 1500, "--max-tokens", "2")
    screen.wait_for(r"reading the prompt \[#+\.+\] +\d+%")
    screen.wait_for("prompt tokens")
    assert screen.wait() == 0


@pytest.mark.parametrize("how", ["lookup", "model"])
def test_drafts_change_nothing_of_an_answer(edgewise, bundle, how):
    drafts = ["--prompt-lookup"] if how == "lookup" else ["--draft", bundle]
    assert edgewise("run", bundle, "Hi", *drafts).out == REPLY + "\n"
    mistake = edgewise("run", bundle, "Hi", "--prompt-lookup", "--draft", bundle).mistake()
    assert "accepted: one of them" in mistake
