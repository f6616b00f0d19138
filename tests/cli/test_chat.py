"""The conversation of ``edgewise run`` at a terminal."""

from __future__ import annotations

import pytest

from edgewise.runtime.backends.fake_bundle import write_fake_bundle, write_fake_vision_bundle

PARIS = r"The capital of France is Paris .*\.\r\n"


@pytest.fixture
def short_bundle(tmp_path):
    return write_fake_bundle(tmp_path / "short", context_length=120)


def test_a_conversation_goes_on_until_its_end(terminal, bundle):
    screen = terminal("run", bundle)
    screen.wait_for("Ctrl-D ends")
    for _ in range(2):
        screen.wait_for("> ")
        screen.type("Hi\n")
        screen.wait_for(PARIS)
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.wait() == 0
    assert "Traceback" not in screen.screen


def test_what_was_said_before_is_part_of_the_prompt(terminal, short_bundle):
    # A turn takes 2 + 3 tokens of the template beside its bytes, so the third is too long.
    screen = terminal("run", short_bundle)
    for _ in range(2):
        screen.wait_for("> ")
        screen.type("x" * 20 + "\n")
        screen.wait_for("The capital")
    screen.wait_for("> ")
    screen.type("y" * 20 + "\n")
    screen.wait_for(r"Error: the prompt has \d+ tokens, the context holds 120.*/clear begins anew")
    screen.wait_for("> ")
    screen.type("/clear\n")
    screen.wait_for("begins anew")
    screen.wait_for("> ")
    screen.type("x\n")
    screen.wait_for(PARIS)
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.wait() == 0


def test_ctrl_c_cuts_an_answer_short_and_leaves_at_the_prompt(terminal, slow_bundle):
    screen = terminal("run", slow_bundle)
    screen.wait_for("> ")
    screen.type("Hi\n")
    screen.wait_for("word word")
    screen.type("\x03")
    screen.wait_for("cut short")
    screen.wait_for("> ")
    assert screen.press_until_it_ends("\x03") == 130
    assert "Traceback" not in screen.screen


def test_a_conversation_about_an_image_goes_on_without_showing_it_again(terminal, tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (3, 2), "red").save(tmp_path / "fox.png")
    seeing = write_fake_vision_bundle(tmp_path / "llava", image_tokens=60, context_length=120)
    screen = terminal("run", seeing, "--image", tmp_path / "fox.png")
    screen.wait_for("> ")
    screen.type("x\n")
    screen.wait_for("A red fox in the snow")
    screen.wait_for("> ")
    screen.type("y" * 60 + "\n")  # behind the image, the first turn and its answer
    screen.wait_for(r"Error: the prompt has \d+ tokens of text and 1 images of 60 tokens each")
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.wait() == 0


def test_a_system_text_without_a_template_is_said_to_be_left_out(terminal, tmp_path):
    plain = write_fake_bundle(tmp_path / "plain", chat=False)
    screen = terminal("run", plain, "--system", "Be brief", "--max-tokens", "2")
    screen.wait_for("left out")
    screen.wait_for("> ")
    screen.type("Hi\n")
    screen.wait_for("> ")
    screen.type("\n")
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.wait() == 0


def test_json_at_a_terminal_needs_a_prompt(terminal, bundle):
    screen = terminal("run", bundle, "--json")
    screen.wait_for("--json needs a TEXT")
    assert screen.wait() == 2
