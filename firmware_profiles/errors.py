"""What is wrong with a profile, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence

from edgewise.common.errors import EdgewiseError


class ProfileError(EdgewiseError):
    """A profile that does not exist, can not be read or contradicts itself.

    Attributes:
        problems: Each fault as one sentence; the message names all of them.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


def refusal(subject: str, problems: Sequence[str]) -> ProfileError:
    """Make one error that names every problem.

    Args:
        subject: What the problems are about, as "raspberry_pi_5.toml" or "cpu".
        problems: One sentence each, without a full stop; at least one.
    """
    if len(problems) == 1:
        return ProfileError(f"{subject}: {problems[0]}.", problems)
    listed = "".join(f"\n  - {problem}" for problem in problems)
    return ProfileError(f"{subject}: {len(problems)} problems:{listed}", problems)


def refuse_if_any(subject: str, problems: Sequence[str]) -> None:
    """Raise the refusal of all problems, or return when there is none.

    Raises:
        ProfileError: There is at least one problem.
    """
    if problems:
        raise refusal(subject, problems)
