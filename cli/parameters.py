"""Options and arguments that several commands share, their completion, and the examples of help.

Rules: click checks the form (a number is a number); whether a value is accepted is decided, and
explained, by the function that uses it, so that scripts and the command line agree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def examples(*lines: str) -> str:
    """Make the end of a command's help: examples that work, each in a line of its own."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def complete_folders(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete with folders, such as a bundle is."""
    return [CompletionItem(incomplete, type="dir")]


def complete_profiles(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete with the names of profiles, and after a colon with the sizes of their RAM."""
    from edgewise.firmware_profiles import available_profiles, load_profile

    name, colon, _ = incomplete.partition(":")
    names = list(available_profiles())
    if colon and name in names:
        names = [f"{name}:{variant.name}" for variant in load_profile(name).memory.variants]
    return [
        CompletionItem(found, help=load_profile(found).title)
        for found in names
        if found.startswith(incomplete)
    ]


def complete_recipes(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete with recipes, and behind a comma with a role and its format."""
    from edgewise.firmware_profiles.recipe import FORMATS, RECIPE_NAMES
    from edgewise.firmware_profiles.vocabulary import ACTIVATIONS, ROLES

    before, comma, part = incomplete.rpartition(",")
    role, equals, _ = part.partition("=")
    if not comma:
        words = [*RECIPE_NAMES, *(text for text in FORMATS if text not in RECIPE_NAMES)]
    elif equals:
        values = ACTIVATIONS if role == "activations" else FORMATS
        words = [f"{role}={value}" for value in values]
    else:
        words = [f"{role}=" for role in (*ROLES, "activations")]
    return [CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(part)]


def complete_prompts(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete with the names of prompts."""
    from edgewise.exporter.prompts import find_prompt, prompt_names

    return [
        CompletionItem(name, help=find_prompt(name).description)
        for name in prompt_names()
        if name.startswith(incomplete)
    ]


def complete_checkpoints(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete with files and folders; packages and Hub ids are not looked up."""
    return [CompletionItem(incomplete, type="file")]


# Decorators of commands; the names of what they pass stand in quotes where they differ.
bundle_argument = click.argument("bundle", type=PATH, shell_complete=complete_folders)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON, and nothing else, to stdout."
)
threads_option = click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Threads that compute; by default as the profile says, within the physical cores.",
)
context_option = click.option(
    "--context",
    type=int,
    metavar="N",
    help="Tokens that prompt and answer may have together; by default all that the bundle allows. "
    "Less takes less memory.",
)
format_option = click.option(
    "--format",
    "runtime",
    metavar="onnx|tflite|litertlm",
    help="What to export for; default: as the profile says.",
)
cache_context_option = click.option(
    "--context",
    type=int,
    metavar="N",
    help="Tokens of cache; by default the most that model and profile allow.",
)
_GENERATION_OPTIONS = (
    click.option(
        "--max-tokens", type=int, metavar="N", help="Generate at most N tokens; default 256."
    ),
    click.option(
        "--temperature",
        type=float,
        metavar="T",
        help="0 always takes the likeliest token; default: as the checkpoint advises.",
    ),
    click.option("--top-k", type=int, metavar="K", help="Choose among the K likeliest tokens."),
    click.option(
        "--top-p",
        type=float,
        metavar="P",
        help="Choose among the likeliest tokens that together have the probability P.",
    ),
    click.option(
        "--min-p",
        type=float,
        metavar="P",
        help="Leave out tokens less likely than P times the likeliest.",
    ),
    click.option(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="Over 1 makes tokens that have been used less likely.",
    ),
    click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="End the answer before this text; may be given several times.",
    ),
    click.option(
        "--beams",
        type=int,
        metavar="N",
        help="Search for the likeliest answer with N beams, without sampling.",
    ),
    click.option(
        "--beam-groups",
        type=int,
        metavar="N",
        help="Divide the beams into N groups that avoid each other's tokens.",
    ),
    click.option(
        "--diversity-penalty",
        type=float,
        metavar="X",
        help="How much groups of beams avoid each other's tokens.",
    ),
    click.option(
        "--length-penalty",
        type=float,
        metavar="X",
        help="Over 1 prefers longer answers of a search, under 1 shorter ones.",
    ),
    click.option("--system", metavar="TEXT", help="What the model is told before the prompt."),
    click.option("--raw", is_flag=True, help="Continue the prompt without the chat template."),
)


def generation_options(function: Decorated) -> Decorated:
    """Give a command the options of generating; `generation_settings` takes their values."""
    for option in reversed(_GENERATION_OPTIONS):
        function = option(function)
    return function


def generation_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return those generation options that were given, as GenerationOptions names them.

    Args:
        given: The values of `generation_options`, without ``system``.
    """
    # By identity: 0 is a value, and equal to False.
    return {
        name: value
        for name, value in given.items()
        if not (value is None or value is False or value == ())
    }


def prompt_with_system(prompt: str, system: str | None, *, raw: bool) -> str | list[dict[str, str]]:
    """Put a system text before a prompt.

    Raises:
        click.UsageError: A raw prompt has no place for it.
    """
    if system is None:
        return prompt
    if raw:
        raise click.UsageError("--raw leaves out the chat template, so --system has no place.")
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
