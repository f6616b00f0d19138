"""Makes the tokenizer JSON of a folder that has none, from the files that came before it.

Workflow: find the tokenizer's class (tokenizer_config.json, else the model type), read its files,
collect the special tokens, convert. The classes are a table: a file format, the special tokens
where the folder names none, and what stands around a text. Each gives the ids that transformers'
class of that name gives; a SentencePiece model those of SentencePiece itself, and with added tokens
those of the slow class of transformers 4, which such folders were written for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgewise.exporter.checkpoint.added_tokens import AddedToken, read_added_tokens
from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.pre_tokenizers import SPLITS
from edgewise.exporter.checkpoint.sentencepiece_conversion import convert_sentencepiece, sentinels
from edgewise.exporter.checkpoint.sentencepiece_model import read_sentencepiece_model
from edgewise.exporter.checkpoint.tokenizer_files import read_object, read_text, token_text
from edgewise.exporter.checkpoint.tokenizer_parts import frame_processor, prepend_processor
from edgewise.exporter.checkpoint.vocabulary_and_merges import (
    build_vocabulary_and_merges,
    read_merges,
    read_vocabulary,
)
from edgewise.exporter.checkpoint.word_piece import build_word_piece, read_word_list

MODEL_FILES = ("tokenizer.model", "spiece.model")
WORD_LIST, VOCABULARY, MERGES = "vocab.txt", "vocab.json", "merges.txt"
SLOW_FILES = (*MODEL_FILES, WORD_LIST, VOCABULARY, MERGES)
# What a tokenizer can be made of, the preferred first.
SLOW_FILE_SETS = (*((name,) for name in MODEL_FILES), (VOCABULARY, MERGES), (WORD_LIST,))
T5_SENTINELS = 100

Format = Literal["sentencepiece", "word_piece", "byte_level"]


@dataclass(frozen=True)
class SlowClass:
    """What a class of tokenizers has besides its files.

    Attributes:
        format: Of its files.
        special: Texts of special tokens by role, where the folder does not name them.
        before: The role of the token that stands before a text, "" for none.
        after: The role of the token that stands behind a text, "" for none.
        between: How many of the latter stand between two texts.
        split: How text is split, by the name in ``SPLITS``; byte_level only.
        sentinels: Tokens ``<extra_id_0>`` and so on behind the vocabulary.
        mask_strips_left: Whether the mask takes the space before it, as in RoBERTa.
        space_in_each_part: Whether SentencePiece's space comes behind each added token too.
    """

    format: Format
    special: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    between: int = 1
    split: str = "gpt-2"
    sentinels: int = 0
    mask_strips_left: bool = False
    space_in_each_part: bool = False


_LLAMA = SlowClass("sentencepiece", {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, before="bos")
_GEMMA = SlowClass(
    "sentencepiece",
    {"unk": "<unk>", "bos": "<bos>", "eos": "<eos>", "pad": "<pad>"},
    before="bos",
)
_T5 = SlowClass(
    "sentencepiece",
    {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"},
    after="eos",
    sentinels=T5_SENTINELS,
    space_in_each_part=True,
)
_BERT = SlowClass(
    "word_piece",
    {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    before="cls",
    after="sep",
)
_ROBERTA = SlowClass(
    "byte_level",
    {
        "bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>",
        "mask": "<mask>",
    },
    before="cls",
    after="sep",
    between=2,
    mask_strips_left=True,
)  # fmt: skip
_END_OF_TEXT = "<|endoftext|>"
_GPT2 = SlowClass("byte_level", {"unk": _END_OF_TEXT, "bos": _END_OF_TEXT, "eos": _END_OF_TEXT})
_QWEN2 = SlowClass("byte_level", {"eos": _END_OF_TEXT, "pad": _END_OF_TEXT}, split="qwen2")

CLASSES: dict[str, SlowClass] = {
    "LlamaTokenizer": _LLAMA,
    "GemmaTokenizer": _GEMMA,
    "T5Tokenizer": _T5,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "Qwen2Tokenizer": _QWEN2,
}
BY_MODEL_TYPE: dict[str, str] = {
    "llama": "LlamaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "t5": "T5Tokenizer",
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "gpt2": "GPT2Tokenizer",
    "phi": "CodeGenTokenizer",
    "phi-msft": "CodeGenTokenizer",
    "llava_phi": "CodeGenTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
}


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
    found = _format_of(folder)
    kind = _class_of(folder, settings, model_type, found)
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
    if found == "sentencepiece":
        return _from_sentencepiece(folder, complete, kind, special, named, added), complete
    if found == "word_piece":
        return _from_word_list(folder, complete, kind, special, added), complete
    return _from_merges(folder, complete, kind, special, added), complete


def _format_of(folder: Path) -> Format | None:
    if any((folder / name).is_file() for name in MODEL_FILES):
        return "sentencepiece"
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        return "byte_level"
    return "word_piece" if (folder / WORD_LIST).is_file() else None


def _class_of(
    folder: Path, settings: Mapping[str, Any], model_type: str, found: Format | None
) -> SlowClass:
    given = settings.get("tokenizer_class")
    name = str(given).removesuffix("Fast") if given else BY_MODEL_TYPE.get(model_type, "")
    kind = CLASSES.get(name)
    # LiteLlama: a Llama model with the files of GPT-2's tokenizer.
    if kind is _LLAMA and found == "byte_level":
        kind = _GPT2
    if kind is None or kind.format != found:
        files = [file for file in SLOW_FILES if (folder / file).is_file()]
        raise CheckpointError(
            f"{folder.name} has no tokenizer.json, and its tokenizer of the class {name or 'none'} "
            f"({listed(files)}) is none that is converted here; those are {listed(CLASSES)}."
        )
    return kind


def _frame(kind: SlowClass, special: Mapping[str, str], ids: Mapping[str, int]) -> Any:
    """Give the post-processor of a class; None where nothing stands around a text."""

    def token(role: str) -> tuple[str, int] | None:
        text = special.get(role)
        if text is None:
            return None
        if text not in ids:
            raise CheckpointError(
                f"The tokenizer's {role}_token {text!r} is not in its vocabulary."
            )
        return text, ids[text]

    before, after = token(kind.before), token(kind.after)
    if before and not after:
        return prepend_processor(*before)
    return frame_processor(before, after, between=kind.between) if after else None


def _with_named(
    added: Mapping[int, AddedToken],
    special: Mapping[str, str],
    ids: Mapping[str, int],
    kind: SlowClass,
) -> dict[int, AddedToken]:
    """Add the special tokens that are only named."""
    tokens = dict(added)
    known = {token.text for token in tokens.values()}
    for role, text in special.items():
        if text in known or text not in ids:
            continue
        tokens[ids[text]] = AddedToken(text, strips_left=role == "mask" and kind.mask_strips_left)
    return tokens


def _ids_with(ids: Mapping[str, int], added: Mapping[int, AddedToken]) -> dict[str, int]:
    return {**ids, **{token.text: identifier for identifier, token in added.items()}}


def _from_sentencepiece(
    folder: Path,
    settings: Mapping[str, Any],
    kind: SlowClass,
    special: Mapping[str, str],
    named: Collection[str],
    added: dict[int, AddedToken],
) -> str:
    path = next(folder / name for name in MODEL_FILES if (folder / name).is_file())
    model = read_sentencepiece_model(path)
    count = settings.get("extra_ids", kind.sentinels) if kind.sentinels else 0
    tokens = {**sentinels(int(count), len(model.pieces)), **added}
    ids = _ids_with({text: number for number, text in enumerate(model.pieces)}, tokens)
    return convert_sentencepiece(
        model,
        tokens,
        # transformers 5 takes a missing ``legacy`` for false, and so does SentencePiece.
        space_in_each_part=kind.space_in_each_part or settings.get("legacy") is True,
        post_processor=_frame(kind, special, ids),
        # Being marked as special does not count there, only being named as one.
        spaced=[token.text for token in added.values() if token.text not in named],
    )


def _from_word_list(
    folder: Path,
    settings: Mapping[str, Any],
    kind: SlowClass,
    special: Mapping[str, str],
    added: dict[int, AddedToken],
) -> str:
    ids = _ids_with(read_word_list(read_text(folder / WORD_LIST)), added)
    return build_word_piece(
        ids,
        _with_named(added, special, ids, kind),
        unknown=special["unk"],
        lowercase=settings.get("do_lower_case", True) is not False,
        strip_accents=settings.get("strip_accents"),
        split_chinese=settings.get("tokenize_chinese_chars", True) is not False,
        post_processor=_frame(kind, special, ids),
    )


def _from_merges(
    folder: Path,
    settings: Mapping[str, Any],
    kind: SlowClass,
    special: Mapping[str, str],
    added: dict[int, AddedToken],
) -> str:
    ids = _ids_with(read_vocabulary(read_object(folder / VOCABULARY)), added)
    return build_vocabulary_and_merges(
        ids,
        read_merges(read_text(folder / MERGES)),
        _with_named(added, special, ids, kind),
        SPLITS[kind.split],
        space_before_text=settings.get("add_prefix_space") is True,
        post_processor=_frame(kind, special, ids),
    )
