"""Makes the tokenizer JSON of a folder that has none, from the files that came before it.

Workflow: find the tokenizer's class (tokenizer_config.json, else the model type) in the table of
slow_classes.py, collect the special tokens, read the class's files, convert. Each class gives the
ids that transformers' class of that name gives; a SentencePiece model those of SentencePiece
itself, and with added tokens those of the slow class of transformers 4, which such folders were
written for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.exporter.checkpoint.added_tokens import AddedToken, read_added_tokens
from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.pre_tokenizers import SPLITS
from edgewise.exporter.checkpoint.sentencepiece_conversion import convert_sentencepiece, sentinels
from edgewise.exporter.checkpoint.sentencepiece_model import read_sentencepiece_model
from edgewise.exporter.checkpoint.slow_classes import (
    BY_MODEL_TYPE,
    CLASSES,
    GPT2,
    LLAMA,
    MERGES,
    MODEL_FILES,
    SLOW_FILES,
    VOCABULARY,
    WORD_LIST,
    Format,
    SlowClass,
)
from edgewise.exporter.checkpoint.tokenizer_files import read_object, read_text, token_text
from edgewise.exporter.checkpoint.tokenizer_parts import frame_processor, prepend_processor
from edgewise.exporter.checkpoint.vocabulary_and_merges import (
    build_vocabulary_and_merges,
    read_merges,
    read_vocabulary,
)
from edgewise.exporter.checkpoint.word_piece import build_word_piece, read_word_list


def has_slow_files(folder: Path) -> bool:
    """Tell whether a folder has the files of a tokenizer from before tokenizer.json."""
    return _format_of(folder) is not None


def convert_slow_tokenizer(
    folder: Path, settings: Mapping[str, Any], model_type: str
) -> tuple[str, dict[str, Any]]:
    """Convert a folder's tokenizer.

    Args:
        folder: With ``tokenizer.model`` or ``spiece.model``, ``vocab.txt``, or ``vocab.json`` and
            ``merges.txt``.
        settings: tokenizer_config.json over special_tokens_map.json.
        model_type: Of config.json.

    Returns:
        The `tokenizers` JSON, and the settings with the class's own special tokens where they name
        none.

    Raises:
        CheckpointError: The class is not known, or its files are missing or damaged.
    """
    kind = _class_of(folder, settings, model_type)
    defaults = {f"{role}_token": text for role, text in kind.special.items()}
    complete = {**defaults, **settings}
    special = {
        role: text
        for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        if (text := token_text(complete.get(f"{role}_token"), f"{role}_token")) is not None
    }
    more = complete.get("additional_special_tokens") or ()
    named = [*special.values(), *(text for entry in more if (text := token_text(entry, "it")))]
    added = read_added_tokens(settings, read_object(folder / "added_tokens.json"), named)
    return _SlowTokenizer(folder, complete, kind, special, named, added).converted(), complete


def _format_of(folder: Path) -> Format | None:
    if any((folder / name).is_file() for name in MODEL_FILES):
        return "sentencepiece"
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        return "byte_level"
    return "word_piece" if (folder / WORD_LIST).is_file() else None


def _class_of(folder: Path, settings: Mapping[str, Any], model_type: str) -> SlowClass:
    found = _format_of(folder)
    given = settings.get("tokenizer_class")
    name = str(given).removesuffix("Fast") if given else BY_MODEL_TYPE.get(model_type, "")
    kind = CLASSES.get(name)
    # LiteLlama: a Llama model with the files of GPT-2's tokenizer.
    if kind is LLAMA and found == "byte_level":
        kind = GPT2
    if kind is None or kind.format != found:
        files = [file for file in SLOW_FILES if (folder / file).is_file()]
        raise CheckpointError(
            f"{folder.name} has no tokenizer.json, and its tokenizer of the class {name or 'none'} "
            f"({listed(files)}) is none that is converted here; those are {listed(CLASSES)}."
        )
    return kind


@dataclass(frozen=True)
class _SlowTokenizer:
    """A folder's tokenizer: its class, and what the folder says beside its files.

    Attributes:
        folder: With the files.
        settings: With the class's own special tokens where the folder names none.
        kind: The class.
        special: Texts of special tokens by role.
        named: All texts that are named as special.
        added: Tokens by id that the vocabulary does not have, or that are special in it.
    """

    folder: Path
    settings: Mapping[str, Any]
    kind: SlowClass
    special: Mapping[str, str]
    named: Collection[str]
    added: Mapping[int, AddedToken]

    def converted(self) -> str:
        """Return the `tokenizers` JSON."""
        if self.kind.format == "sentencepiece":
            return self._from_sentencepiece()
        if self.kind.format == "word_piece":
            return self._from_word_list()
        return self._from_merges()

    def _from_sentencepiece(self) -> str:
        kind, settings = self.kind, self.settings
        path = next(self.folder / name for name in MODEL_FILES if (self.folder / name).is_file())
        model = read_sentencepiece_model(path)
        count = settings.get("extra_ids", kind.sentinels) if kind.sentinels else 0
        tokens = {**sentinels(int(count), len(model.pieces)), **self.added}
        ids = _ids_with({text: number for number, text in enumerate(model.pieces)}, tokens)
        return convert_sentencepiece(
            model,
            tokens,
            # transformers 5 takes a missing ``legacy`` for false, and so does SentencePiece.
            space_in_each_part=kind.space_in_each_part or settings.get("legacy") is True,
            post_processor=self._frame(ids),
            # Being marked as special does not count there, only being named as one.
            spaced=[token.text for token in self.added.values() if token.text not in self.named],
        )

    def _from_word_list(self) -> str:
        ids = _ids_with(read_word_list(read_text(self.folder / WORD_LIST)), self.added)
        return build_word_piece(
            ids,
            self._with_named(ids),
            unknown=self.special["unk"],
            lowercase=self.settings.get("do_lower_case", True) is not False,
            strip_accents=self.settings.get("strip_accents"),
            split_chinese=self.settings.get("tokenize_chinese_chars", True) is not False,
            post_processor=self._frame(ids),
        )

    def _from_merges(self) -> str:
        ids = _ids_with(read_vocabulary(read_object(self.folder / VOCABULARY)), self.added)
        return build_vocabulary_and_merges(
            ids,
            read_merges(read_text(self.folder / MERGES)),
            self._with_named(ids),
            SPLITS[self.kind.split],
            space_before_text=self.settings.get("add_prefix_space") is True,
            post_processor=self._frame(ids),
        )

    def _frame(self, ids: Mapping[str, int]) -> Any:
        """Give the post-processor of the class; None where nothing stands around a text."""

        def token(role: str) -> tuple[str, int] | None:
            text = self.special.get(role)
            if text is None:
                return None
            if text not in ids:
                raise CheckpointError(
                    f"The tokenizer's {role}_token {text!r} is not in its vocabulary."
                )
            return text, ids[text]

        before, after = token(self.kind.before), token(self.kind.after)
        if before and not after:
            return prepend_processor(*before)
        return frame_processor(before, after, between=self.kind.between) if after else None

    def _with_named(self, ids: Mapping[str, int]) -> dict[int, AddedToken]:
        """Add the special tokens that are only named."""
        tokens = dict(self.added)
        known = {token.text for token in tokens.values()}
        for role, text in self.special.items():
            if text in known or text not in ids:
                continue
            strips_left = role == "mask" and self.kind.mask_strips_left
            tokens[ids[text]] = AddedToken(text, strips_left=strips_left)
        return tokens


def _ids_with(ids: Mapping[str, int], added: Mapping[int, AddedToken]) -> dict[str, int]:
    return {**ids, **{token.text: identifier for identifier, token in added.items()}}
