"""Holding what a model is asked for against what its bundle was made for.

Rule: standard library only, for those who ask before a model is loaded, or on another machine.
"""

from __future__ import annotations

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.manifest import Manifest, Task


class TaskError(EdgewiseError):
    """A model that was not made for what it is asked to do."""


def check_task(manifest: Manifest, task: Task) -> None:
    """Refuse a task that a bundle was not made for.

    Raises:
        TaskError: The manifest does not list it.
    """
    tasks = manifest.tasks
    if task not in tasks:
        raise TaskError(
            f"{manifest.model_id} was not made for the task {task}, but for"
            f" {', '.join(tasks)}; ask for {'one of these' if len(tasks) > 1 else 'that'}, or"
            " load a bundle that was"
        )
