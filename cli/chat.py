"""The conversation that ``edgewise run`` holds at a terminal.

Rules: Ctrl-C during an answer cuts it short and the conversation goes on; at the prompt it leaves
with code 130, Ctrl-D with 0. What was refused (a conversation longer than the context) is taken
back, so that the next line can be tried.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise.cli import console, interrupts
from edgewise.cli.answer import Prompt, pieces_of
from edgewise.common.errors import EdgewiseError

if TYPE_CHECKING:
    from edgewise.runtime import GenerationOptions, LanguageModel, SequenceModel

HELP = "Type a message. /clear begins anew, Ctrl-C cuts an answer short, Ctrl-D ends."
CLEAR = "/clear"
ASK = "> "


def chat(
    model: LanguageModel | SequenceModel,
    options: GenerationOptions,
    system: str | None,
    images: Sequence[Path] = (),
) -> None:
    """Hold a conversation until the end of standard input.

    Args:
        model: Answers; where it has no chat template, or for raw options, each line is continued
            by itself and nothing is remembered.
        options: How to generate.
        system: What the model is told first; None: nothing.
        images: What the conversation is about, for a model that sees.
    """
    remembers = model.manifest.chat is not None and not options.raw
    beginning = [] if system is None else [{"role": "system", "content": system}]
    if beginning and not remembers:
        console.say("The system text is left out: there is no chat template to put it in.")
    messages = list(beginning)
    if importlib.util.find_spec("readline") is not None:
        import readline  # noqa: F401 - from now on input() edits lines and remembers them
    console.say(f"{model.manifest.model_id}. {HELP}")
    while (line := _read_line()) is not None:
        if line.strip() == CLEAR:
            messages = list(beginning)
            console.say("The conversation begins anew.")
        elif line.strip():
            question = [*messages, {"role": "user", "content": line}]
            try:
                answer = _answer(model, options, question if remembers else line, images)
            except EdgewiseError as error:
                console.say(f"Error: {error} ({CLEAR} begins anew)")
                continue
            if remembers:
                messages = [*question, {"role": "assistant", "content": answer}]


def _read_line() -> str | None:
    sys.stdout.flush()
    try:
        return input(ASK)
    except EOFError:
        console.write_line()
        return None


def _answer(
    model: LanguageModel | SequenceModel,
    options: GenerationOptions,
    prompt: Prompt,
    images: Sequence[Path],
) -> str:
    """Stream an answer and return its text, as far as it came."""
    texts: list[str] = []
    pieces = pieces_of(model, prompt, options, images)
    try:
        with contextlib.closing(pieces):
            for piece in pieces:
                texts.append(piece.text)
                console.write(piece.text)
    except KeyboardInterrupt:
        interrupts.forget()
        console.write(" [cut short]")
    console.write("\n")
    return "".join(texts)
