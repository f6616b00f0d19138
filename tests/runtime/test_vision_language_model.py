"""Questions with images through the whole model, over a bundle whose engine is a hash."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from edgewise.runtime import GenerationOptions, VisionLanguageModel, load
from edgewise.runtime.backends.fake_bundle import write_fake_vision_bundle
from edgewise.runtime.backends.fake_vision_language import FakeVisionLanguageBackend
from edgewise.runtime.bundle import BundleError
from edgewise.runtime.chat import ChatError
from edgewise.runtime.images import ImageError, open_image, pixels_of
from edgewise.runtime.options import OptionsError
from edgewise.runtime.sessions.vision_language import ImageCountError
from edgewise.runtime.slot_pool import ContextError

REPLY = "A red fox in the snow 🙂."
TOKENS = 5
GREEDY = GenerationOptions(temperature=0.0, max_tokens=60)
RAW = GenerationOptions(temperature=0.0, max_tokens=4, raw=True)


def picture(seed=0):
    array = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return PIL.Image.fromarray(array)


def opened(folder, **options):
    """Load a bundle and keep its engine within reach."""
    engines = []

    def factory(bundle, **sizes):
        engines.append(FakeVisionLanguageBackend.open(bundle, **sizes))
        return engines[0]

    model = load(folder, backend=factory, **options)
    return model, engines[0]


@pytest.fixture
def folder(tmp_path):
    return write_fake_vision_bundle(tmp_path / "bundle", image_tokens=TOKENS)


@pytest.fixture
def raw_model(tmp_path):
    folder = write_fake_vision_bundle(tmp_path / "bundle", image_tokens=TOKENS, chat=False)
    model, engine = opened(folder)
    with model:
        yield model, engine


def ids_of(model, engine, image):
    return engine.ids_of(pixels_of(open_image(image), model.manifest.image))


def greedy_ids(engine, prompt, count):
    """Return the answer that the hash of a whole history gives."""
    history = list(prompt)
    for _ in range(count):
        history.append(int(engine.logits_after(history).argmax()))
    return history[len(prompt) :]


def test_a_bundle_that_sees_loads_as_such(folder):
    with load(folder) as model:
        assert isinstance(model, VisionLanguageModel)
        assert model.generate("What is there?", GREEDY).text == REPLY


def test_several_answers_about_an_image(folder):
    options = GenerationOptions(temperature=5.0, max_tokens=6, raw=True, seed=1)
    with load(folder, slots=2) as model:
        answers = model.generate_several("x <image>", options, count=3, images=[picture()])
        for index, answer in enumerate(answers):
            alone = model.generate("x <image>", options.numbered(index), images=[picture()])
            assert answer.token_ids == alone.token_ids
        assert len({answer.token_ids for answer in answers}) == 3


@pytest.mark.parametrize("form", ["file", "bytes", "image"])
def test_an_image_comes_as_a_file_its_content_or_an_image(folder, tmp_path, form):
    content = io.BytesIO()
    picture().save(content, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(content.getvalue())
    source = {"file": path, "bytes": content.getvalue(), "image": picture()}[form]
    with load(folder) as model:
        generation = model.generate("<image>\nWhat is there?", GREEDY, images=[source])
    assert generation.text == REPLY
    marks = 3  # user, end and assistant are one token each
    text = len("\nWhat is there?")
    assert generation.statistics.prompt_tokens == marks + text + TOKENS


@pytest.mark.parametrize(
    "prompt", ["<image>tell", "te<image>ll", "tell<image>", "<image>", "a<image>b<image>c"]
)
def test_an_answer_depends_on_images_and_their_places(raw_model, prompt):
    model, engine = raw_model
    count = prompt.count("<image>")
    images = [picture(seed) for seed in range(count)]
    expected = []
    for index, text in enumerate(prompt.split("<image>")):
        expected += model.tokenizer.encode(text)
        if index < count:
            expected += ids_of(model, engine, images[index])
    generation = model.generate(prompt, RAW, images=images)
    assert list(generation.token_ids) == greedy_ids(engine, expected, 4)
    assert engine.seen == count


def test_small_chunks_of_the_prompt_change_nothing(tmp_path):
    folder = write_fake_vision_bundle(tmp_path / "bundle", image_tokens=TOKENS, chat=False)
    answers = set()
    for chunk in (1, 3, 100):
        model, _ = opened(folder, prefill_chunk=chunk)
        with model:
            answers.add(model.generate("a<image>bc", RAW, images=[picture()]).token_ids)
    assert len(answers) == 1


def test_a_question_without_a_mark_comes_behind_its_images(folder):
    plain, marked = [], []
    for prompt, results in (("Why?", plain), ("<image>\n<image>\nWhy?", marked)):
        model, engine = opened(folder)
        with model:
            model.generate(prompt, GREEDY, images=[picture(1), picture(2)])
            results.append(engine._histories[0])
    assert plain == marked


def test_messages_without_a_mark_have_images_before_the_first_question(folder):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And?"},
    ]
    marked = [dict(message) for message in messages]
    marked[1]["content"] = "<image>\nWhy?"
    histories = []
    for given in (messages, marked):
        model, engine = opened(folder)
        with model:
            model.generate(given, GREEDY, images=[picture()])
            histories.append(engine._histories[0])
    assert histories[0] == histories[1]
    assert messages[1]["content"] == "Why?"


def test_a_turn_of_text_after_an_image_is_as_if_there_had_been_none(raw_model):
    model, engine = raw_model
    before = model.generate("plain", RAW).token_ids
    model.generate("<image>tell", RAW, images=[picture()])
    assert model.generate("plain", RAW).token_ids == before
    assert list(before) == greedy_ids(engine, model.tokenizer.encode("plain"), 4)


def test_an_image_that_comes_again_is_computed_once(raw_model):
    model, engine = raw_model
    first = model.generate("<image>tell", RAW, images=[picture()]).token_ids
    model.generate("<image>more", RAW, images=[picture()])
    assert model.generate("<image>tell", RAW, images=[picture()]).token_ids == first
    assert engine.seen == 1


@pytest.mark.parametrize(
    ("prompt", "images"), [("a<image>", 0), ("<image><image>", 1), ("<image>a", 2)]
)
def test_marks_and_images_must_be_as_many(folder, prompt, images):
    with load(folder) as model, pytest.raises(ImageCountError, match=f"given: {images}"):
        model.stream(prompt, GREEDY, images=[picture()] * images)


def test_a_raw_prompt_has_its_marks_itself(raw_model):
    with pytest.raises(ImageCountError, match=r"0 times in the prompt, .* given: 1"):
        raw_model[0].stream("tell", RAW, images=[picture()])


def test_what_does_not_fit_is_refused_with_the_numbers(tmp_path):
    folder = write_fake_vision_bundle(
        tmp_path / "bundle", image_tokens=TOKENS, context_length=16, chat=False
    )
    with load(folder) as model:
        fitting = model.generate("a" * 6 + "<image><image>", RAW, images=[picture()] * 2)
        assert (fitting.finish_reason, len(fitting.token_ids)) == ("length", 1)
        with pytest.raises(ContextError, match=r"7 tokens of text and 2 images of 5 .* 17 tog.*16"):
            model.stream("a" * 7 + "<image><image>", RAW, images=[picture()] * 2)
        with pytest.raises(ContextError, match="17 tokens"):
            model.stream("a" * 17, RAW)


def test_an_unreadable_image_is_refused_before_anything_is_computed(raw_model, tmp_path):
    model, engine = raw_model
    with pytest.raises(ImageError, match=r"none\.png"):
        model.stream("<image>", RAW, images=[tmp_path / "none.png"])
    assert engine.steps == 0


def test_tokens_are_counted_with_images_that_are_not_opened(folder):
    with load(folder) as model:
        text = model.count_tokens("Why?")
        assert model.count_tokens("<image>Why?", images=["none.png"]) == text + TOKENS
        assert model.count_tokens("Why?", images=["none.png"]) == text + len("\n") + TOKENS
        with pytest.raises(ImageCountError):
            model.count_tokens("<image>Why?")


def test_closing_the_generator_frees_the_slot(raw_model):
    model, _ = raw_model
    pieces = model.stream("<image>tell", RAW, images=[picture()])
    next(pieces)
    pieces.close()
    assert model.generate("<image>tell", RAW, images=[picture()]).token_ids


def test_several_beams_and_raw_messages_are_refused(folder):
    with load(folder) as model:
        with pytest.raises(OptionsError, match="beams is 2"):
            model.stream("Why?", GenerationOptions(beams=2), images=[picture()])
        with pytest.raises(ChatError, match="raw"):
            model.stream([{"role": "user", "content": "<image>"}], RAW, images=[picture()])


def test_a_repetition_penalty_leaves_images_alone(raw_model):
    options = GenerationOptions(temperature=0.0, max_tokens=4, raw=True, repetition_penalty=1.3)
    model, _ = raw_model
    assert len(model.generate("<image>tell", options, images=[picture()]).token_ids) == 4


def test_a_bundle_that_does_not_say_how_images_are_read_is_refused(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image": None}))
    with pytest.raises(BundleError, match="image is not there"):
        load(folder)
