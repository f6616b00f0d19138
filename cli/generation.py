"""The options of generating, which ``run`` and ``request`` share, and what they stand for.

Rules: click checks the form; whether a value is accepted is decided by `GenerationOptions`. What is
not given is left to the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgewise.cli.console import read_text_file
from edgewise.cli.parameters import PATH, Decorated

if TYPE_CHECKING:
    from edgewise.runtime.options import GenerationOptions
    from edgewise.runtime.output_format import OutputFormat

_FORMATS = {"schema": "--schema", "regex": "--regex", "choices": "--choice", "grammar": "--grammar"}


def _biases(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[int, float] | None:
    """Read the values of --logit-bias; None where there are none."""
    biases: dict[int, float] = {}
    for text in given:
        token, _, number = text.partition("=")
        try:
            biases[int(token)] = float(number)
        except ValueError as error:
            raise click.BadParameter(
                f"{text!r} is not a token's id and a number, such as 42=-1.5."
            ) from error
    return biases or None


_GENERATION_OPTIONS = (
    click.option(
        "--window",
        type=int,
        metavar="N",
        help="Answer without end: once N tokens are seen, forget all but the first few and the "
        "last half. The context is the most that can be seen.",
    ),
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
    click.option(
        "--typical-p",
        type=float,
        metavar="P",
        help="Choose among the tokens that surprise as much as is expected, with the probability P "
        "together.",
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        metavar="X",
        help="Over 0 makes a token less likely with each time that the answer has it.",
    ),
    click.option(
        "--presence-penalty",
        type=float,
        metavar="X",
        help="Over 0 makes tokens that the answer has less likely.",
    ),
    click.option(
        "--logit-bias",
        multiple=True,
        callback=_biases,
        metavar="ID=X",
        help="Make the token ID likelier, or with X under 0 less likely; may be given several "
        "times.",
    ),
    click.option(
        "--dry-multiplier",
        type=float,
        metavar="X",
        help="Over 0 keeps the text from repeating sequences of tokens (DRY); 0.8 is usual.",
    ),
    click.option(
        "--dry-base",
        type=float,
        metavar="X",
        help="How much more a longer repetition costs with DRY, by token; default 1.75.",
    ),
    click.option(
        "--dry-allowed-length",
        type=int,
        metavar="N",
        help="Tokens in a row that DRY lets repeat; default 2.",
    ),
    click.option(
        "--dry-breaker",
        "dry_breakers",
        multiple=True,
        metavar="TEXT",
        help="A text over which no repetition reaches; may be given several times. Default: line "
        "break, colon, quotation mark, asterisk.",
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
    click.option(
        "--schema",
        type=PATH,
        metavar="FILE",
        help="Answer with JSON that the JSON Schema in a file accepts.",
    ),
    click.option(
        "--regex", metavar="EXPRESSION", help="Answer with a text that an expression matches whole."
    ),
    click.option(
        "--choice",
        "choices",
        multiple=True,
        metavar="TEXT",
        help="Answer with one of the texts that are given so, once each.",
    ),
    click.option(
        "--grammar",
        type=PATH,
        metavar="FILE",
        help="Answer with a text that the Lark grammar in a file accepts.",
    ),
    click.option(
        "--logprobs",
        type=int,
        metavar="K",
        help="With --json: tell each token's log-probability, and the K likeliest, up to 20.",
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

    Raises:
        InputError: The file of a format can not be read.
        FormatError: A format can not be used.
        click.UsageError: There is more than one format.
    """
    # By identity: 0 is a value, and equal to False.
    settings = {
        name: value
        for name, value in given.items()
        if not (value is None or value is False or value == ())
    }
    formats = {name: settings.pop(name) for name in _FORMATS if name in settings}
    if len(formats) > 1:
        names = " and ".join(_FORMATS[name] for name in formats)
        raise click.UsageError(f"{names}: an answer keeps to one format; give one of them.")
    for name, value in formats.items():
        settings["output_format"] = _output_format(name, value)
    return settings


def refuse_logprobs_without_json(options: GenerationOptions | None, *, as_json: bool) -> None:
    """Refuse log-probabilities where there is no place for them.

    Raises:
        click.UsageError: They are asked for without --json.
    """
    if options is not None and options.logprobs is not None and not as_json:
        raise click.UsageError("--logprobs needs --json.")


def _output_format(name: str, value: Any) -> OutputFormat:
    from edgewise.runtime.output_format import FORMAT_MAX_BYTES, OutputFormat

    match name:
        case "schema":
            return OutputFormat.json_schema(read_text_file(value, FORMAT_MAX_BYTES))
        case "grammar":
            return OutputFormat.lark(read_text_file(value, FORMAT_MAX_BYTES))
        case "regex":
            return OutputFormat.regex(value)
    return OutputFormat.choice(value)
