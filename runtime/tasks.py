"""Holding what a model is asked for against what its bundle was made for.

Rule: standard library only, for those who ask before a model is loaded, or on another machine.
"""

from __future__ import annotations

import typing

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.manifest import Manifest, Task


class TaskError(EdgewiseError):
    """A model that was not made for what it is asked to do."""


def resolve_task(manifest: Manifest, name: str | None) -> tuple[Task, str]:
    """Return what a bundle is asked for, and what every text has to begin with for it.

    A T5 does several things with a text, as "translation-en-to-de": it is told by the words that
    the text begins with, which its checkpoint names.

    Args:
        manifest: Of the bundle.
        name: A task, or one of the manifest's ``prefixes``; None for the manifest's first task.

    Raises:
        TaskError: The manifest lists no such task.
    """
    if name is None:
        return manifest.tasks[0], ""
    if name in manifest.prefixes:
        return "generate", manifest.prefixes[name]
    for task in typing.get_args(Task):
        if task == name:
            check_task(manifest, task)
            return task, ""
    raise _not_made_for(manifest, name)


def check_task(manifest: Manifest, task: Task) -> None:
    """Refuse a task that a bundle was not made for.

    Raises:
        TaskError: The manifest does not list it.
    """
    if task not in manifest.tasks:
        raise _not_made_for(manifest, task)


def _not_made_for(manifest: Manifest, task: str) -> TaskError:
    tasks = (*manifest.tasks, *manifest.prefixes)
    return TaskError(
        f"{manifest.model_id} was not made for the task {task}, but for"
        f" {', '.join(tasks)}; ask for {'one of these' if len(tasks) > 1 else 'that'}, or"
        " load a bundle that was"
    )
