"""The classes of tokenizers that folders without a tokenizer JSON name: what each has, as a table.

A class is a file format, the special tokens where the folder names none, and what stands around a
text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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


LLAMA = SlowClass("sentencepiece", {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, before="bos")
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
GPT2 = SlowClass("byte_level", {"unk": _END_OF_TEXT, "bos": _END_OF_TEXT, "eos": _END_OF_TEXT})
_QWEN2 = SlowClass("byte_level", {"eos": _END_OF_TEXT, "pad": _END_OF_TEXT}, split="qwen2")

CLASSES: dict[str, SlowClass] = {
    "LlamaTokenizer": LLAMA,
    "GemmaTokenizer": _GEMMA,
    "T5Tokenizer": _T5,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "GPT2Tokenizer": GPT2,
    "CodeGenTokenizer": GPT2,
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
