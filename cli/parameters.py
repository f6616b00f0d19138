"""Options and arguments that several commands share, their completion, and the examples of help.

Rules: click checks the form (a number is a number); whether a value is accepted is decided, and
explained, by the function that uses it, so that scripts and the command line agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("kMG", 1)}
_UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMG", 1)}


class Bytes(click.ParamType[int]):
    """A number of bytes, perhaps with a unit: 100000000, 100MB, 95.4MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; a text of another form fails."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s?([kMG]?B|[KMG]iB)?", str(value))
        if match is None:
            self.fail(f"{value!r} is no size; give one such as 100MB or 96MiB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2] or ""])


BYTES = Bytes()


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


def complete_cache_types(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete with the types in which keys and values can be kept."""
    from edgewise.firmware_profiles.vocabulary import CACHE_DTYPE_BYTES

    return [CompletionItem(dtype) for dtype in CACHE_DTYPE_BYTES if dtype.startswith(incomplete)]


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
cache_budget_option = click.option(
    "--cache-mib",
    type=click.IntRange(min=1),
    metavar="N",
    help="What the keys and values of all answers may take together, in MiB; what does not fit "
    "waits. Default: those of one whole context, for which the export has planned.",
)
lookup_option = click.option(
    "--prompt-lookup",
    is_flag=True,
    help="Draft what followed the last words where they stood before: the same answer, sooner "
    "where it quotes its prompt.",
)
draft_option = click.option(
    "--draft",
    "draft_model",
    type=PATH,
    metavar="BUNDLE",
    help="A smaller bundle with the same vocabulary that drafts: the same answer, sooner.",
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
cache_type_option = click.option(
    "--cache",
    "cache_dtype",
    metavar="TYPE",
    shell_complete=complete_cache_types,
    help="How keys and values are kept: float32, float16 (half the memory, ONNX) or int8 (a "
    "quarter; faster behind a long text, slower at reading one); default: as the profile says.",
)


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
