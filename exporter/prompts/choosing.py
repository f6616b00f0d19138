"""Chooses a prompt for a checkpoint and corrects its ids.

Rules: a template that the checkpoint brings is kept unless another is asked for by name, or it is
written for contents in parts (text, image), which the runtime does not give; a prompt is taken
unasked only when exactly one matches, never guessed between two. Corrected ids hold whatever the
template.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Protocol

from edgewise.exporter.checkpoint import Checkpoint, TokenizerFiles
from edgewise.exporter.checkpoint.tokenizer_check import loaded_tokenizer
from edgewise.exporter.prompts.family import (
    Match,
    Prompt,
    PromptError,
    TokenRule,
    families,
    find_prompt,
)

TYPES_OF_PARTS = ("llava",)  # whose templates are written for transformers' processors
PART_TYPE = r"""selectattr\(\s*['"]type|\[['"]type['"]\]|\.type\b"""
WIDTHS = ("hidden_size", "d_model", "n_embd")  # how configurations call the features of a token


class _Tokens(Protocol):
    """What is asked of a tokenizer."""

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token."""
        ...

    def id_to_token(self, id: int) -> str | None:  # noqa: A002 - its name in `tokenizers`
        """Return the token of an id."""
        ...


def apply_prompts(checkpoint: Checkpoint, prompt: str | None = None) -> Checkpoint:
    """Give a checkpoint whose tokenizer has the right ids, a template and its stop texts.

    Args:
        checkpoint: As it was opened; it stays open for both.
        prompt: The name of a prompt to use whatever the checkpoint brings, or None.

    Raises:
        PromptError: There is no such prompt, or several match.
    """
    tokenizer = loaded_tokenizer(checkpoint.tokenizer.tokenizer_json, "the tokenizer")
    files = checkpoint.tokenizer
    for family in families():
        if family.ids is not None and _matches(family.match, checkpoint, tokenizer):
            files = _corrected(files, family.ids, tokenizer)
    chosen = None
    if prompt is not None:
        chosen = find_prompt(prompt)
    elif files.chat_template is None or _takes_parts(checkpoint):
        chosen = _matching(checkpoint, tokenizer)
        if chosen is None:
            files = replace(files, chat_template=None)
    if chosen is not None:
        files = replace(
            files,
            chat_template=chosen.template,
            stop=chosen.stop,
            chat_sample=chosen.sample,
            ends_source=chosen.ends_source,
        )
    return replace(checkpoint, tokenizer=files)


def _takes_parts(checkpoint: Checkpoint) -> bool:
    """Tell whether a template wants contents in parts, of which it would leave texts out."""
    template = checkpoint.tokenizer.chat_template or ""
    is_such = re.search(PART_TYPE, template) is not None
    return checkpoint.config["model_type"] in TYPES_OF_PARTS and is_such


def _matching(checkpoint: Checkpoint, tokenizer: _Tokens) -> Prompt | None:
    found = [
        prompt
        for family in families()
        if _matches(family.match, checkpoint, tokenizer)
        for prompt in family.prompts.values()
        if prompt.match is not None and _matches(prompt.match, checkpoint, tokenizer)
    ]
    if len(found) > 1:
        names = " and ".join(prompt.name for prompt in found)
        raise PromptError(
            f"{checkpoint.origin.name} has no chat template, and the prompts {names} both suit it; "
            f"choose with --prompt {found[0].name}."
        )
    return found[0] if found else None


def _matches(match: Match, checkpoint: Checkpoint, tokenizer: _Tokens) -> bool:
    config = checkpoint.config
    names = (checkpoint.origin.name, str(config.get("_name_or_path") or ""))
    width = next((config[key] for key in WIDTHS if key in config), None)
    return (
        (not match.model_types or config["model_type"] in match.model_types)
        and (not match.vocabulary_sizes or config.get("vocab_size") in match.vocabulary_sizes)
        and (not match.hidden_sizes or width in match.hidden_sizes)
        and (match.name is None or any(re.search(match.name, name, re.I) for name in names))
        and all(tokenizer.token_to_id(text) == number for text, number in match.token_ids.items())
    )


def _corrected(files: TokenizerFiles, rule: TokenRule, tokenizer: _Tokens) -> TokenizerFiles:
    if rule.beginning is not None:
        files = replace(
            files,
            beginning_token_id=rule.beginning,
            beginning_token=tokenizer.id_to_token(rule.beginning),
        )
    if rule.end is not None:
        files = replace(files, end_token_ids=rule.end, end_token=tokenizer.id_to_token(rule.end[0]))
    if rule.padding is not None:
        files = replace(files, padding_token_id=rule.padding)
    if rule.sampled_vocabulary is not None:
        files = replace(files, sampled_vocabulary=rule.sampled_vocabulary)
    return files
