"""Rebuilds tokenizer, chat template and special tokens from the fields of a GGUF file.

Workflow: read the vocabulary, build the `tokenizers` JSON of its kind, load it once to prove it,
collect the special tokens. Rule: generation stops at the tokens that the file names as ends, and at
the control tokens that llama.cpp takes for ends by their text, for many files name only one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgewise.exporter.checkpoint.byte_level_bpe import build_byte_level_bpe, split_named
from edgewise.exporter.checkpoint.checkpoint import TokenizerFiles
from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.gguf_fields import GgufFields
from edgewise.exporter.checkpoint.sentence_piece import build_sentence_piece
from edgewise.exporter.checkpoint.tokenizer_check import loaded_tokenizer, prepends
from edgewise.exporter.checkpoint.tokenizer_parts import TokenKind, Vocabulary, prepend_processor

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
# llama.cpp, src/llama-vocab.cpp: the texts that end a turn or a document in any model.
END_TEXTS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>",
    "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>",
})  # fmt: skip


def rebuild_tokenizer(fields: GgufFields, vocabulary_size: int) -> TokenizerFiles:
    """Rebuild the tokenizer.

    Args:
        fields: The file's fields.
        vocabulary_size: Rows of the embedding; no token may lie past them.

    Raises:
        CheckpointError: The kind is not known, or the fields are missing or contradict.
    """
    kind = fields.required(fields.text(f"{PREFIX}model"), f"{PREFIX}model")
    vocabulary = _read_vocabulary(fields, vocabulary_size)
    if kind == "gpt2":
        split = split_named(fields.text(f"{PREFIX}pre"))
        defaults: dict[str, int | None] = {}
        adds_beginning = split.add_beginning
    elif kind == "llama":
        defaults = {"bos": 1, "eos": 2, "unknown": 0}
        adds_beginning = True
    else:
        raise CheckpointError(
            f"{fields.file_name} has a tokenizer of the kind {kind!r}; accepted are gpt2 "
            "(byte-level BPE) and llama (SentencePiece BPE). Give the Hugging Face folder instead."
        )

    def special(role: str) -> int | None:
        identifier = fields.integer(f"{PREFIX}{role}_token_id")
        identifier = defaults.get(role) if identifier is None else identifier
        if identifier is not None and identifier >= len(vocabulary.texts):
            raise CheckpointError(
                f"{fields.file_name} has {PREFIX}{role}_token_id = {identifier}, but only "
                f"{len(vocabulary.texts)} tokens."
            )
        return identifier

    def text_of(identifier: int | None) -> str | None:
        return None if identifier is None else vocabulary.texts[identifier]

    beginning, end = special("bos"), special("eos")
    said = fields.flag(f"{PREFIX}add_bos_token")
    adds_beginning = adds_beginning if said is None else said
    post_processor = None
    if adds_beginning and beginning is not None:
        post_processor = prepend_processor(vocabulary.texts[beginning], beginning)
    if kind == "gpt2":
        merges = fields.texts(f"{PREFIX}merges")
        tokenizer_json = build_byte_level_bpe(
            vocabulary, fields.required(merges, f"{PREFIX}merges"), split, post_processor
        )
    else:
        prefix = fields.flag(f"{PREFIX}add_space_prefix")
        tokenizer_json = build_sentence_piece(
            vocabulary,
            _read_scores(fields, vocabulary),
            unknown_token=text_of(special("unknown")),
            space_prefix=True if prefix is None else prefix,
            post_processor=post_processor,
        )
    tokenizer = loaded_tokenizer(tokenizer_json, f"{fields.file_name}'s vocabulary")
    return TokenizerFiles(
        tokenizer_json=tokenizer_json,
        chat_template=_read_template(fields),
        beginning_token_id=beginning,
        end_token_ids=_end_tokens(vocabulary, [end, special("eot"), special("eom")]),
        padding_token_id=special("padding"),
        beginning_token=text_of(beginning),
        end_token=text_of(end),
        add_beginning_token=prepends(tokenizer, beginning),
    )


def _read_vocabulary(fields: GgufFields, vocabulary_size: int) -> Vocabulary:
    texts = fields.required(fields.texts(f"{PREFIX}tokens"), f"{PREFIX}tokens")
    kinds = fields.integers(f"{PREFIX}token_type")
    if kinds is None:
        kinds = [TokenKind.NORMAL] * len(texts)
    if len(kinds) != len(texts):
        raise CheckpointError(
            f"{fields.file_name} has {len(texts)} tokens and {len(kinds)} token types."
        )
    if len(texts) > vocabulary_size:
        raise CheckpointError(
            f"{fields.file_name} has {len(texts)} tokens, but its embedding only "
            f"{vocabulary_size} rows."
        )
    return Vocabulary(texts, kinds)


def _read_scores(fields: GgufFields, vocabulary: Vocabulary) -> list[float]:
    scores = fields.required(fields.numbers(f"{PREFIX}scores"), f"{PREFIX}scores")
    if len(scores) != len(vocabulary.texts):
        raise CheckpointError(
            f"{fields.file_name} has {len(vocabulary.texts)} tokens and {len(scores)} scores."
        )
    return scores


def _end_tokens(vocabulary: Vocabulary, named: Iterable[int | None]) -> tuple[int, ...]:
    known: list[Any] = [identifier for identifier in named if identifier is not None]
    by_text = [
        identifier
        for identifier, text in enumerate(vocabulary.texts)
        if text in END_TEXTS and vocabulary.kinds[identifier] == TokenKind.CONTROL
    ]
    return tuple(dict.fromkeys([*known, *by_text]))


def _read_template(fields: GgufFields) -> str | None:
    template = fields.text(TEMPLATE)
    named = fields.keys_under(f"{TEMPLATE}.")
    if template is not None or not named:
        return template
    if len(named) == 1:
        return fields.text(named[0])
    raise CheckpointError(
        f"{fields.file_name} has no default chat template, only {listed(named)}. "
        "Give the Hugging Face folder with the one to use as chat_template.jinja."
    )
