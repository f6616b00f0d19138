"""``edgewise completion``: the script that teaches a shell to complete our words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from edgewise.cli import console
from edgewise.cli.parameters import examples

COMPLETE_VARIABLE = "_EDGEWISE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command(
    short_help="Print the completion script of a shell.",
    epilog=examples(
        'eval "$(edgewise completion bash)"',
        "edgewise completion zsh > ~/.zfunc/_edgewise",
        "edgewise completion fish > ~/.config/fish/completions/edgewise.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the completion script of SHELL, to be read when the shell starts."""
    script = get_completion_class(shell)
    if script is None:
        raise RuntimeError(f"click has no completion for {shell}")
    complete = script(context.find_root().command, {}, "edgewise", COMPLETE_VARIABLE)
    # Not complete.source(): it starts bash to look at its version.
    console.write_line((complete.source_template % complete.source_vars()).strip())
