"""What an agent can be asked, and what a model must have been made for to be asked it.

Rules: the verb is a level of a request's topic, the task a word of a bundle's manifest; an agent
offers the verbs of its model's tasks, and ``cancel``.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewise.runtime.manifest import Task

GENERATE = "generate"
CANCEL = "cancel"
TASKS: Mapping[str, Task] = {
    GENERATE: "generate",
    "classify": "classify",
    "fill": "fill-mask",
    "tokens": "token-classify",
    "embed": "embed",
    "score": "score",
}
TEXT_VERBS = tuple(verb for verb in TASKS if verb != GENERATE)


def verbs_of(model: object) -> tuple[str, ...]:
    """Return the verbs that a model answers; one without a manifest generates."""
    tasks = getattr(getattr(model, "manifest", None), "tasks", (TASKS[GENERATE],))
    return tuple(verb for verb, task in TASKS.items() if task in tasks)


def verb_of(task: Task) -> str:
    """Return the verb that asks for a task."""
    return next(verb for verb, named in TASKS.items() if named == task)
