"""``edgewise run`` with models that judge texts, and with encoder-decoders."""

import json

import numpy as np
import pytest

from edgewise.cli import text_answers
from edgewise.cli.text_answers import bar
from edgewise.runtime import load
from edgewise.runtime.backends.fake_bundle import (
    write_fake_bundle,
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
    write_fake_vision_bundle,
)

LABELS = ("sad", "happy", "angry", "calm", "afraid", "bored", "proud")


@pytest.fixture(scope="module")
def moods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "moods"
    return write_fake_encoder_bundle(folder, tasks=("classify", "embed"), labels=LABELS)


@pytest.fixture(scope="module")
def guesser(tmp_path_factory):
    return write_fake_encoder_bundle(tmp_path_factory.mktemp("bundles") / "guesser")


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return write_fake_sequence_bundle(tmp_path_factory.mktemp("bundles") / "t5", stop=(" 🙂",))


def test_labels_are_a_table_with_bars(edgewise, moods):
    result = edgewise("run", moods, "I am", "--top", "2")
    with load(moods) as model:
        (expected,) = model.classify(["I am"])
    rows = [line.split() for line in result.out.splitlines()]
    best = list(expected.items())[:2]
    assert [row[0] for row in rows] == [label for label, _ in best]
    assert [row[1] for row in rows] == [f"{share:.1%}" for _, share in best]
    assert all(set(row[2]) <= set("█▏▎▍▌▋▊▉") for row in rows if len(row) > 2)
    assert result.err == ""
    assert len(edgewise("run", moods, "I am").out.splitlines()) == 5


def test_json_has_the_same(edgewise, moods):
    value = json.loads(edgewise("run", moods, "I", "--text-pair", "you", "--json").out)
    with load(moods) as model:
        (expected,) = model.classify([("I", "you")])
    assert value["task"] == "classify"
    assert value["text"] == ["I", "you"]
    assert [(each["label"], each["probability"]) for each in value["labels"]] == list(
        expected.items()
    )[:5]


def test_the_guess_stands_marked_in_the_sentence(edgewise, guesser):
    text = "a[MASK]b[MASK]c"
    with load(guesser) as model:
        expected = model.fill_mask(text, count=2)
    value = json.loads(edgewise("run", guesser, text, "--top", "2", "--json").out)
    assert value["masks"] == [[guess._asdict() for guess in guesses] for guesses in expected]
    lines = edgewise("run", guesser, text, "--top", "2").out.split("\n")
    assert (lines[0], lines[3], lines[6], lines[-1]) == ("mask 1", "mask 2", "", "")
    first, second = (guesses[0].text.strip() for guesses in expected)
    assert lines[7] == f"a[{first}]b[{second}]c"
    alone = edgewise("run", guesser, "[MASK]", "--top", "1").out.split("\n")
    assert len(alone) == 4
    assert "%" in alone[0]


def test_a_vector_and_the_likeness_of_two(edgewise, moods):
    with load(moods) as model:
        vectors = model.embed(["one", "other"])
    value = json.loads(edgewise("run", moods, "one", "--task", "embed", "--json").out)
    assert np.float32(value["vector"]).tolist() == vectors[0].tolist()
    shown = edgewise("run", moods, "one", "--task", "embed").out
    assert shown.startswith(f"8 numbers: {vectors[0][0]:.4f}, ")
    both = ("run", moods, "one", "--text-pair", "other", "--task", "embed")
    value = json.loads(edgewise(*both, "--json").out)
    assert np.float32(value["vectors"]).tolist() == vectors.tolist()
    assert value["similarity"] == pytest.approx(float(vectors[0] @ vectors[1]))
    assert f"similarity {value['similarity']:.4f}" in edgewise(*both).out


@pytest.mark.parametrize("source", ["file", "dash", "argument", "pipe"])
def test_lines_are_judged_one_by_one(edgewise, moods, tmp_path, monkeypatch, source):
    monkeypatch.setattr(text_answers, "LINES_AT_ONCE", 3)
    texts = [f"text {number}" for number in range(8)] + ["", "naïve\u2028é"]
    content = "\r\n".join(texts).encode()
    (tmp_path / "texts").write_bytes(content)
    arguments = {
        "file": ["--file", tmp_path / "texts"],
        "dash": ["--file", "-"],
        "argument": ["-"],
        "pipe": [],
    }[source]
    result = edgewise("run", moods, *arguments, "--top", "1", stdin=content)
    values = [json.loads(line) for line in result.out.split("\n")[:-1]]
    with load(moods) as model:
        expected = [next(iter(labels.items())) for labels in model.classify(texts)]
    assert [value["text"] for value in values] == texts
    found = [(value["labels"][0]["label"], value["labels"][0]["probability"]) for value in values]
    assert found == [(label, pytest.approx(share)) for label, share in expected]


def test_a_faulty_line_is_named_and_those_before_it_are_answered(edgewise, moods, tmp_path):
    (tmp_path / "texts").write_text("a\nb\n" + "x" * 63 + "\nd\n")
    result = edgewise("run", moods, "--file", tmp_path / "texts")
    assert result.code == 2
    assert len(result.out.splitlines()) == 2
    assert "Line 3: " in result.err
    assert "has 65 tokens, this model reads at most 64" in result.err
    (tmp_path / "texts").write_bytes(b"a\n\xff\n")
    result = edgewise("run", moods, "--file", tmp_path / "texts")
    assert f"Line 2 of {tmp_path / 'texts'} is no UTF-8" in result.err
    message = edgewise("run", moods, "--file", tmp_path / "none").mistake()
    assert message == f"{tmp_path / 'none'} can not be read: No such file or directory."


def test_a_task_of_another_kind_is_refused_with_those_there_are(edgewise, moods, bundle):
    message = edgewise("run", moods, "x", "--task", "generate").mistake()
    assert "not made for the task generate, but for classify, embed" in message
    message = edgewise("run", bundle, "x", "--task", "embed").mistake()
    assert "not made for the task embed, but for generate; ask for that" in message


@pytest.mark.parametrize(
    ("which", "options", "expected"),
    [
        ("moods", ["--max-tokens", "5", "--raw"], "--max-tokens, --raw: without meaning for the"),
        ("moods", ["--temperature", "0"], "--temperature: without meaning for the task classify"),
        ("moods", ["--system", "x"], "--system: without meaning"),
        ("moods", ["--stream"], "--stream: without meaning"),
        ("moods", ["--image", "x.png"], "--image has no place: fake sees no images"),
        ("moods", ["--file", "-"], "There is a TEXT and a --file"),
        ("bundle", ["--top", "3"], "--top: without meaning for the task generate"),
        ("bundle", ["--text-pair", "x"], "--text-pair: without meaning"),
        ("bundle", ["--file", "x"], "--file: without meaning"),
        ("bundle", ["--image", "x.png"], "--image has no place: fake sees no images"),
        ("guesser", [], "there is no mask in 'text'; write [MASK] where a word is missing"),
    ],
)
def test_options_without_meaning_are_refused(
    edgewise, moods, bundle, guesser, which, options, expected
):
    folder = {"moods": moods, "bundle": bundle, "guesser": guesser}[which]
    assert expected in edgewise("run", folder, "text", *options).mistake()


def test_lines_take_no_pair(edgewise, moods):
    message = edgewise("run", moods, "--text-pair", "x", stdin=b"a\n").mistake()
    assert "--text-pair needs a TEXT" in message


def test_a_person_who_gives_nothing_is_told(moods, terminal):
    screen = terminal("run", moods)
    screen.wait_for("Missing argument 'TEXT'; or give a --file, or pipe texts in")
    assert screen.wait() == 2


def test_an_encoder_decoder_answers_a_source(edgewise, translator):
    result = edgewise("run", translator, "Paris is the capital of France.")
    assert result.out == "Paris est la capitale de la France\n"
    assert "[32 prompt tokens, " in result.err
    value = json.loads(edgewise("run", translator, "x", "--json", "--raw").out)
    assert value["text"] == "Paris est la capitale de la France 🙂."
    assert value["finish_reason"] == "stop"
    assert "takes no messages" in edgewise("run", translator, "x", "--system", "y").mistake()


def test_a_task_of_a_t5_is_told_by_the_words_before_the_text(edgewise, tmp_path, terminal):
    words = "translate English to German: "
    bundle = write_fake_sequence_bundle(
        tmp_path / "t5", reply="", prefixes={"translation-en-to-de": words}
    )
    told = json.loads(edgewise("run", bundle, f"{words}a house", "--json").out)
    asked = edgewise("run", bundle, "a house", "--json", "--task", "translation-en-to-de")
    assert json.loads(asked.out)["text"] == told["text"]
    plain = edgewise("run", bundle, "a house", "--json", "--task", "generate")
    assert json.loads(plain.out)["text"] != told["text"]
    assert "translation-en-to-de" in edgewise("inspect", bundle).out
    message = edgewise("run", bundle, "x", "--task", "summarization").mistake()
    assert "for the task summarization, but for generate, translation-en-to-de; ask" in message
    message = edgewise("run", bundle, "x", "--task", "embed").mistake()
    assert "not made for the task embed, but for generate, translation-en-to-de" in message
    screen = terminal("run", bundle, "--task", "translation-en-to-de")
    screen.wait_for("needs a TEXT")
    assert screen.wait() == 2


def test_beams_take_slots(edgewise, translator, bundle):
    one = json.loads(edgewise("run", translator, "x", "--json").out)
    value = json.loads(edgewise("run", translator, "x", "--json", "--beams", "3").out)
    assert value["text"] == one["text"]
    groups = ("--beams", "4", "--beam-groups", "2", "--diversity-penalty", "0.5")
    assert json.loads(edgewise("run", translator, "x", "--json", *groups).out)["text"]
    assert "beams is 65" in edgewise("run", translator, "x", "--beams", "65").mistake()
    assert (
        "beams is 2; accepted by the model fake, a decoder: 1"
        in edgewise("run", bundle, "x", "--beams", "2").mistake()
    )


def test_bars_are_as_long_as_the_share(monkeypatch):
    class Stream:
        encoding = "utf-8"

    monkeypatch.setattr("sys.stdout", Stream())
    assert bar(0.0) == ""
    assert bar(1.0) == "█" * 24
    assert bar(0.5) == "█" * 12
    assert bar(1 / 192) == "▏"
    assert bar(0.5 + 7 / 192) == "█" * 12 + "▉"
    Stream.encoding = "ascii"
    assert bar(0.5) == "#" * 12


def test_an_image_is_shown_to_a_model_that_sees(edgewise, tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = write_fake_vision_bundle(tmp_path / "llava")
    image.new("RGB", (3, 2), "red").save(tmp_path / "fox.png")
    with load(folder) as model:
        expected = model.generate("What is this?", images=[tmp_path / "fox.png"])
    result = edgewise("run", folder, "What is this?", "--image", tmp_path / "fox.png", "--json")
    value = json.loads(result.out)
    assert value["text"] == expected.text == "A red fox in the snow 🙂."
    assert value["statistics"]["prompt_tokens"] == expected.statistics.prompt_tokens
    blind = json.loads(edgewise("run", folder, "What is this?", "--json").out)
    assert blind["statistics"]["prompt_tokens"] < value["statistics"]["prompt_tokens"]
    (tmp_path / "broken.png").write_bytes(b"no image")
    message = edgewise("run", folder, "What?", "--image", tmp_path / "broken.png").mistake()
    assert "broken.png" in message
    edgewise("run", folder, "What?", "--image", tmp_path / "none.png").mistake()


def test_labelled_parts_are_marked_in_the_text(edgewise, tmp_path):
    folder = write_fake_encoder_bundle(
        tmp_path / "b", tasks=("token-classify",), labels=("O", "B-PER", "I-PER")
    )
    text = "Ada met Bo in Rome"
    with load(folder) as model:
        (expected,) = model.token_classify([text])
    assert 0 < len(expected) < 5
    value = json.loads(edgewise("run", folder, text, "--json").out)
    assert [span["text"] for span in value["spans"]] == [span.text for span in expected]
    first, empty, *rows = edgewise("run", folder, text).out.splitlines()
    marked = text
    for span in reversed(expected):
        marked = f"{marked[: span.start]}[{span.text}]{marked[span.end :]}"
    assert (first, empty) == (marked, "")
    assert [row.split()[-3:-1] for row in rows] == [
        [span.label, f"{span.probability:.1%}"] for span in expected
    ]
    pair = edgewise("run", folder, "x", "--text-pair", "y").mistake()
    assert "takes texts one by one; a pair was given" in pair


def test_a_verifier_scores(edgewise, tmp_path):
    folder = write_fake_bundle(tmp_path / "verifier", scores=("wrong", "right"))
    with load(folder) as model:
        expected = model.score("2 + 2 = 4")
    value = json.loads(edgewise("run", folder, "2 + 2 = 4", "--json").out)
    assert value["scores"] == [{"label": one, "score": s} for one, s in expected.items()]
    rows = [line.split() for line in edgewise("run", folder, "2 + 2 = 4").out.splitlines()]
    assert rows == [[one, f"{score:.4f}"] for one, score in expected.items()]
    bench = edgewise("bench", folder, "--prompt-tokens", "4", "--new-tokens", "2", "--rounds", "1")
    assert "prefill" in bench.out
    assert "decode to text" not in bench.out
