r"""Makes a tokenizer for spreadsheet formulas, as FLAME's (arXiv 2301.13779, section 3.2).

Text is written in small letters and cut so that punctuation, white space, the names of Excel's
functions and each digit are tokens of their own; only the rest, names and words in strings, is made
of learned pieces. Bytes stand for every character that the texts of the training did not have.

Workflow: ``build_formula_tokenizer(texts)`` trains the pieces and writes one `tokenizers` JSON.
Rules: the tokens of a text, joined, are the text in small letters. A function's name counts where
it is a whole word; one that could be a cell as well (``LOG10``) only before a parenthesis.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.checkpoint.added_tokens import AddedToken
from edgewise.exporter.checkpoint.tokenizer_parts import (
    frame_processor,
    sequence_of,
    tokenizer_json,
)

VOCABULARY_SIZE = 16_000  # tokens, as FLAME's
PADDING, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPECIAL_TOKENS = (PADDING, END, UNKNOWN)  # ids 0, 1 and 2, as T5's
SENTINELS = 100
ALONE = r"\s|[\p{P}\p{S}]|\p{Nd}"  # characters that are tokens of their own
CELL = re.compile(r"[a-z]{1,3}[1-9][0-9]{0,6}")
WORD = r"[\p{L}\p{N}_]"
_FUNCTIONS = Path(__file__).parent / "excel_functions.txt"


class FormulaTokenizerError(EdgewiseError):
    """A formula tokenizer that can not be made as asked for."""


def excel_functions() -> tuple[str, ...]:
    """Return the names of Excel's functions in small letters, sorted."""
    return tuple(_FUNCTIONS.read_text(encoding="utf-8").split())


def build_formula_tokenizer(
    texts: Iterable[str], *, vocabulary_size: int = VOCABULARY_SIZE, sentinels: int = SENTINELS
) -> str:
    """Train a formula tokenizer.

    Args:
        texts: Formulas to learn pieces from.
        vocabulary_size: Tokens at most; fewer if the texts have no more pieces.
        sentinels: Tokens ``<extra_id_0>`` and so on, at the end in descending order.

    Returns:
        A `tokenizers` JSON.

    Raises:
        FormulaTokenizerError: The vocabulary has no room for what is always in it.
    """
    fixed = _fixed_tokens()
    room = vocabulary_size - len(fixed) - sentinels
    if room < 1:
        raise FormulaTokenizerError(
            f"a vocabulary of {vocabulary_size} tokens was asked for; the special tokens, bytes, "
            f"characters and functions of a formula tokenizer alone are {len(fixed)}, and "
            f"{sentinels} sentinels: give at least {len(fixed) + sentinels + 1}."
        )
    pieces, merges = _learned(texts, fixed, room)
    last = [f"<extra_id_{number}>" for number in reversed(range(sentinels))]
    ids = {text: number for number, text in enumerate([*fixed, *pieces, *last])}
    return _formula_json(ids, merges, [*SPECIAL_TOKENS, *last])


def _fixed_tokens() -> list[str]:
    """Return what is in the vocabulary whatever the texts, each once."""
    characters = [chr(code).lower() for code in range(128)]
    numbered = [f"<0x{byte:02X}>" for byte in range(256)]
    return list(dict.fromkeys([*SPECIAL_TOKENS, *numbered, *characters, *excel_functions()]))


def _cut_pattern() -> str:
    """Give the pattern of what is a token of its own."""
    names = sorted(excel_functions(), key=lambda name: (-len(name), name))
    plain = [re.escape(name) for name in names if not CELL.fullmatch(name)]
    like_cells = [re.escape(name) for name in names if CELL.fullmatch(name)]
    begins, ends = rf"(?<!{WORD})(?<!\.)", rf"(?!{WORD}|\.{WORD})"
    return (
        rf"{begins}(?:{'|'.join(plain)}){ends}"
        rf"|{begins}(?:{'|'.join(like_cells)})(?=\s*\()|{ALONE}"
    )


def _learned(
    texts: Iterable[str], fixed: list[str], room: int
) -> tuple[list[str], list[list[str]]]:
    """Learn pieces of what is left when all that stands alone is taken out.

    Returns:
        At most ``room`` new tokens, and the pairs that make them by rank.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(_cut_pattern()), "removed")
    letters = [text for text in fixed if len(text) == 1]
    trainer = trainers.BpeTrainer(
        vocab_size=room + len(letters),
        initial_alphabet=letters,
        limit_alphabet=room + len(letters),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    known = set(fixed)
    ordered = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return [text for text in ordered if text not in known], model["merges"]


def _formula_json(ids: dict[str, int], merges: list[list[str]], special: list[str]) -> str:
    return tokenizer_json(
        added_tokens=[
            AddedToken(text).as_json(ids[text]) for text in sorted(special, key=ids.__getitem__)
        ],
        normalizer={"type": "Lowercase"},
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": _cut_pattern()},
            "behavior": "Isolated",
            "invert": False,
        },
        post_processor=frame_processor(None, (END, ids[END])),
        decoder=sequence_of([{"type": "ByteFallback"}, {"type": "Fuse"}], "decoders"),
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            # A function's name is a token although no pairs make it.
            "ignore_merges": True,
            "vocab": ids,
            "merges": merges,
        },
    )
