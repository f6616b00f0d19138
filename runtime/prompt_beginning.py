"""What all prompts that begin alike have in common, in tokens.

A text's tokens may change where it goes on: "in 2" is not the beginning of "in 2026" in every
vocabulary, and a chat template writes something behind every message. So a prompt is continued in
several ways, and what the ids of all of them share is what every prompt of its kind begins with.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgewise.runtime.chat import Messages

CONTINUATIONS = ("a", " B", "1", ".", "\n\n", " é")  # a word goes on, or ends in one way or another


def continued(prompt: str | Messages) -> list[str | Messages]:
    """Continue a prompt in several ways.

    Args:
        prompt: A text, or messages. Where the last message is the user's, it goes on; behind
            another one the user says something.
    """
    if isinstance(prompt, str):
        return [prompt + more for more in CONTINUATIONS]
    *earlier, last = prompt if prompt else [{"role": "user", "content": ""}]
    if last.get("role") != "user":
        earlier, last = [*earlier, last], {"role": "user", "content": ""}
    return [
        [*earlier, {**last, "content": f"{last.get('content', '')}{more}"}]
        for more in CONTINUATIONS
    ]


def common_beginning(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Return the longest list of ids that all sequences begin with."""
    shortest, *others = sorted(map(list, sequences), key=len)
    length = next(
        (
            place
            for place, token in enumerate(shortest)
            if any(other[place] != token for other in others)
        ),
        len(shortest),
    )
    return shortest[:length]
