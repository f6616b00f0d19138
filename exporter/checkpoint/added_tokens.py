"""Tokens that a folder adds to its tokenizer's vocabulary, from whichever file names them.

Workflow: ``added_tokens_decoder`` of tokenizer_config.json if it is there, else added_tokens.json,
as transformers reads them; then what is named as a special token. Rule: a token that is only named
is special and found in the text as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.exporter.checkpoint.errors import CheckpointError


@dataclass(frozen=True)
class AddedToken:
    """A text that becomes one token wherever it stands.

    Attributes:
        text: What is looked for.
        special: Whether decoding leaves it out, and raw text of strangers never gives it.
        normalized: Whether it is looked for after normalization.
        strips_left: Whether it takes the white space before it.
        strips_right: Whether it takes the white space behind it.
        single_word: Whether it is found only between word boundaries.
    """

    text: str
    special: bool = True
    normalized: bool = False
    strips_left: bool = False
    strips_right: bool = False
    single_word: bool = False

    def as_json(self, identifier: int) -> dict[str, Any]:
        """Write it as a `tokenizers` JSON has it."""
        return {
            "id": identifier,
            "content": self.text,
            "single_word": self.single_word,
            "lstrip": self.strips_left,
            "rstrip": self.strips_right,
            "normalized": self.normalized,
            "special": self.special,
        }


def read_added_tokens(
    settings: Mapping[str, Any], by_text: Mapping[str, Any], special: Iterable[str]
) -> dict[int, AddedToken]:
    """Read the added tokens by id.

    Args:
        settings: The content of tokenizer_config.json.
        by_text: The content of added_tokens.json: ids by text.
        special: Texts of special tokens.

    Raises:
        CheckpointError: An entry is malformed, or an id is given twice.
    """
    described = settings.get("added_tokens_decoder")
    if described is not None:
        if not isinstance(described, Mapping):
            raise CheckpointError(
                f"tokenizer_config.json has added_tokens_decoder = {described!r:.60}; "
                "an object of tokens by id is accepted."
            )
        return {_identifier(key): _described(key, entry) for key, entry in described.items()}
    named = frozenset(special)
    tokens: dict[int, AddedToken] = {}
    for text, identifier in by_text.items():
        if not isinstance(identifier, int) or identifier < 0 or identifier in tokens:
            raise CheckpointError(
                f"added_tokens.json gives {text!r} the id {identifier!r}; accepted is an id of "
                "its own."
            )
        tokens[identifier] = AddedToken(text, special=text in named, normalized=text not in named)
    return tokens


def _identifier(key: object) -> int:
    if isinstance(key, str) and key.isdecimal():
        return int(key)
    raise CheckpointError(
        f"tokenizer_config.json has {key!r} in added_tokens_decoder; token ids are accepted."
    )


def _described(key: str, entry: object) -> AddedToken:
    flags = ("special", "normalized", "lstrip", "rstrip", "single_word")
    if (
        not isinstance(entry, Mapping)
        or not isinstance(entry.get("content"), str)
        or not all(isinstance(entry.get(flag, False), bool) for flag in flags)
    ):
        raise CheckpointError(
            f"tokenizer_config.json describes the added token {key} as {entry!r:.80}; accepted is "
            f"an object with content and, as true or false, {', '.join(flags)}."
        )
    return AddedToken(
        entry["content"],
        special=entry.get("special", False),
        normalized=entry.get("normalized", not entry.get("special", False)),
        strips_left=entry.get("lstrip", False),
        strips_right=entry.get("rstrip", False),
        single_word=entry.get("single_word", False),
    )
