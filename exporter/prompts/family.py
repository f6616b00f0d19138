"""Reads the families' files strictly: one error names every field that is unknown or ill-typed.

Workflow: ``families()`` reads every TOML file of this folder into frozen types. Rules: a field that
is not known is refused, so that a misspelt condition never makes a prompt match too much; a prompt
without ``match`` is taken only by its name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgewise.common.errors import EdgewiseError
from edgewise.firmware_profiles.vocabulary import nearest, unknown
from edgewise.runtime.options import STOP_MAX_COUNT, STOP_MAX_LENGTH

_FOLDER = Path(__file__).parent


class PromptError(EdgewiseError):
    """A prompt that does not exist or does not suit, or a family's file that is faulty."""


@dataclass(frozen=True)
class Match:
    """Which checkpoints are meant: those that fulfil every condition that is given.

    Attributes:
        model_types: Of config.json.
        vocabulary_sizes: Rows of the embedding.
        hidden_sizes: Features a token.
        name: A regular expression, found in the checkpoint's name; case does not count.
        token_ids: Texts that the tokenizer has as these ids.
    """

    model_types: tuple[str, ...] = ()
    vocabulary_sizes: tuple[int, ...] = ()
    hidden_sizes: tuple[int, ...] = ()
    name: str | None = None
    token_ids: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenRule:
    """Ids that are right where a published configuration's are wrong or missing.

    Attributes:
        reason: What is wrong, in words of users.
        beginning: Begins a text.
        end: Each of them ends an answer.
        padding: Fills a batch.
        sampled_vocabulary: Ids from here on are no tokens, only rows of the matrix.
    """

    reason: str
    beginning: int | None = None
    end: tuple[int, ...] | None = None
    padding: int | None = None
    sampled_vocabulary: int | None = None


@dataclass(frozen=True)
class Prompt:
    """One way to ask.

    Attributes:
        name: What ``--prompt`` calls it.
        description: For lists.
        template: Jinja source, as chat templates are; rendered in the same sandbox.
        stop: Texts that end an answer.
        match: Checkpoints that it is taken for without being asked for; None for none.
        ends_source: Whether an encoder-decoder's text ends with its end token.
        sample: A message that it takes, where it does not take any; None: any.
    """

    name: str
    description: str
    template: str
    stop: tuple[str, ...] = ()
    match: Match | None = None
    ends_source: bool = True
    sample: str | None = None


@dataclass(frozen=True)
class Family:
    """One file: models that are asked alike.

    Attributes:
        title: What people call them.
        source: Where the formats were read.
        match: Conditions on all that the file says.
        prompts: By name.
        ids: Corrections; None where the configurations are right.
    """

    title: str
    source: str
    match: Match
    prompts: Mapping[str, Prompt]
    ids: TokenRule | None


@cache
def families() -> tuple[Family, ...]:
    """Read every family, in the order of the files' names."""
    return tuple(_read(path) for path in sorted(_FOLDER.glob("*.toml")))


def prompt_names() -> tuple[str, ...]:
    """Return the names of all prompts, sorted."""
    return tuple(sorted(name for family in families() for name in family.prompts))


def find_prompt(name: str) -> Prompt:
    """Return the prompt of a name.

    Raises:
        PromptError: There is none; the message lists them.
    """
    for family in families():
        if name in family.prompts:
            return family.prompts[name]
    raise PromptError(f"{unknown('prompt', name, prompt_names())}.")


def _read(path: Path) -> Family:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(f"{path.name} is not a TOML file in UTF-8: {error}.") from error
    return parse_family(content, subject=path.name)


def parse_family(content: Mapping[str, Any], *, subject: str) -> Family:
    """Read the content of one file.

    Args:
        content: The parsed TOML.
        subject: What an error calls it.

    Raises:
        PromptError: All its faults in one message.
    """
    problems: list[str] = []
    table = _Table(content, "", problems)
    family = Family(
        title=table.text("title"),
        source=table.text("source"),
        match=_match(table.table("match")),
        prompts={
            name: _prompt(name, prompt) for name, prompt in table.tables("prompts", required=False)
        },
        ids=_rule(ids) if (ids := table.table("ids", required=False)) is not None else None,
    )
    table.close()
    if family.match == Match():
        problems.append("match has no condition, so that it would mean every checkpoint")
    if not family.prompts and family.ids is None:
        problems.append("there are neither prompts nor ids")
    if problems:
        raise PromptError(f"{subject} is faulty: {'; '.join(problems)}.")
    return family


def _prompt(name: str, table: _Table) -> Prompt:
    prompt = Prompt(
        name=name,
        description=table.text("description"),
        template=table.text("template"),
        stop=table.texts("stop"),
        match=_match(own) if (own := table.table("match", required=False)) is not None else None,
        ends_source=table.flag("ends_source", default=True),
        sample=table.optional_text("sample"),
    )
    if len(prompt.stop) > STOP_MAX_COUNT or any(
        not 0 < len(text) <= STOP_MAX_LENGTH for text in prompt.stop
    ):
        table.fault("stop", f"up to {STOP_MAX_COUNT} texts of 1 to {STOP_MAX_LENGTH} characters")
    table.close()
    return prompt


def _match(table: _Table | None) -> Match:
    if table is None:
        return Match()
    match = Match(
        model_types=table.texts("model_types", required=False),
        vocabulary_sizes=table.integers("vocabulary_sizes") or (),
        hidden_sizes=table.integers("hidden_sizes") or (),
        name=table.optional_text("name"),
        token_ids=table.ids_by_text("token_ids"),
    )
    try:
        re.compile(match.name or "")
    except re.error as error:
        table.fault("name", f"a regular expression ({error})")
    table.close()
    return match


def _rule(table: _Table) -> TokenRule:
    rule = TokenRule(
        reason=table.text("reason"),
        beginning=table.integer("beginning"),
        end=table.integers("end"),
        padding=table.integer("padding"),
        sampled_vocabulary=table.integer("sampled_vocabulary"),
    )
    table.close()
    return rule


class _Table:
    """A table of a file; what is asked for is checked, and what never is asked for is a fault."""

    def __init__(self, content: Mapping[str, Any], path: str, problems: list[str]) -> None:
        self._content = content
        self._path = path
        self._problems = problems
        self._asked: set[str] = set()

    def fault(self, key: str, accepted: str) -> None:
        self._problems.append(
            f"{self._path}{key} is {self._content.get(key)!r:.60}; accepted: {accepted}"
        )

    def close(self) -> None:
        for key in self._content:
            if key not in self._asked:
                hint = nearest(key, self._asked)
                self._problems.append(f"{self._path}{key} is no field{hint}")

    def _value(self, key: str, accepted: str, *, required: bool) -> Any:
        self._asked.add(key)
        if required and key not in self._content:
            self._problems.append(f"{self._path}{key} is missing ({accepted})")
        return self._content.get(key)

    def _checked(self, key: str, accepted: str, right: bool, value: Any) -> Any:  # noqa: FBT001 - private
        if value is not None and not right:
            self.fault(key, accepted)
            return None
        return value

    def text(self, key: str) -> str:
        value = self._value(key, "a text", required=True)
        return self._checked(key, "a text", isinstance(value, str) and value != "", value) or ""

    def optional_text(self, key: str) -> str | None:
        value = self._value(key, "a text", required=False)
        text: str | None = self._checked(key, "a text", isinstance(value, str), value)
        return text

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._value(key, "true or false", required=False)
        checked = self._checked(key, "true or false", isinstance(value, bool), value)
        return default if checked is None else bool(checked)

    def texts(self, key: str, *, required: bool = True) -> tuple[str, ...]:
        value = self._value(key, "a list of texts", required=required)
        right = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        return tuple(self._checked(key, "a list of texts", right, value) or ())

    def integer(self, key: str) -> int | None:
        value = self._value(key, "a whole number", required=False)
        number: int | None = self._checked(key, "a whole number", _is_count(value), value)
        return number

    def integers(self, key: str) -> tuple[int, ...] | None:
        value = self._value(key, "a list of whole numbers", required=False)
        right = isinstance(value, list) and all(map(_is_count, value))
        checked = self._checked(key, "a list of whole numbers", right, value)
        return None if checked is None else tuple(checked)

    def ids_by_text(self, key: str) -> dict[str, int]:
        value = self._value(key, "a table of ids by text", required=False)
        right = isinstance(value, dict) and all(map(_is_count, value.values()))
        return dict(self._checked(key, "a table of ids by text", right, value) or {})

    def table(self, key: str, *, required: bool = True) -> _Table | None:
        value = self._value(key, "a table", required=required)
        checked = self._checked(key, "a table", isinstance(value, dict), value)
        return None if checked is None else _Table(checked, f"{self._path}{key}.", self._problems)

    def tables(self, key: str, *, required: bool) -> list[tuple[str, _Table]]:
        value = self._value(key, "a table of tables", required=required)
        right = isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())
        checked = self._checked(key, "a table of tables", right, value) or {}
        return [
            (name, _Table(one, f"{self._path}{key}.{name}.", self._problems))
            for name, one in checked.items()
        ]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
