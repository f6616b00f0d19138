"""How byte-level BPE vocabularies split text before they merge, by GGUF's ``tokenizer.ggml.pre``.

Each entry gives the normalizer, pre-tokenizer and ``ignore_merges`` of the tokenizer.json that the
models of that name carry (llama.cpp's patterns are their translations; ``src/llama-vocab.cpp``).
One name of GGUF is one entry; a name without an entry is refused, for a wrong split degrades a
model without a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Split:
    """What of a tokenizer.json depends on the name."""

    steps: tuple[dict[str, Any], ...]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False  # a word that is a token needs no merges
    add_beginning: bool = False  # if the file does not say


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _isolated(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_DIGITS = {"type": "Digits", "individual_digits": True}
_NFC = {"type": "NFC"}
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD_AND_REST = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_PATTERN = f"{_CONTRACTIONS}|{_WORD_AND_REST % '{1,3}'}"
_QWEN2_PATTERN = f"{_CONTRACTIONS}|{_WORD_AND_REST % ''}"

_GPT2 = Split((_byte_level(use_regex=True),))
_SINGLE_DIGITS = Split((_DIGITS, _byte_level(use_regex=True)))
_LLAMA3 = Split(
    (_isolated(_LLAMA3_PATTERN), _byte_level(use_regex=False)),
    ignore_merges=True,
    add_beginning=True,
)
_QWEN2 = Split((_isolated(_QWEN2_PATTERN), _byte_level(use_regex=False)), normalizer=_NFC)
# What llama.cpp does for files that were made before the field existed.
_UNNAMED = Split(
    (
        _isolated(r"[\p{P}\$\+<=>\^~\|]+"),
        _isolated(_GPT2_PATTERN),
        _isolated(r"\p{N}+"),
        _isolated(r"[0-9][0-9][0-9]"),
        _byte_level(use_regex=False),
    )
)

SPLITS: dict[str, Split] = {
    "default": _UNNAMED,
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _GPT2,
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "codeshell": _SINGLE_DIGITS,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
}
