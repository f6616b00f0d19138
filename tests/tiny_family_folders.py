"""Hugging Face folders of the tiny encoders and encoder-decoders, with tokenizers that fit them.

A BERT gets a WordPiece of letters, a RoBERTa a byte-level BPE, a T5 a unigram model: what such
checkpoints have, without any training.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

from tiny_families import TinyEncoder, TinyFamilyModel
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_TOKENS = {
    "bos": "<s>",
    "pad": "<pad>",
    "eos": "</s>",
    "unk": "<unk>",
    "mask": "<mask>",
    "cls": "<s>",
    "sep": "</s>",
}
T5_TOKENS = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}


def write_family_folder(model: TinyFamilyModel, folder: Path) -> Path:
    """Write what `export` opens, once; ``folder`` is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    model.write(folder)
    size = model.configuration.vocabulary_size
    if not isinstance(model, TinyEncoder):
        tokenizer, tokens = _unigram(size), T5_TOKENS
    elif model.config["model_type"] == "roberta":
        tokenizer, tokens = _byte_level(size), ROBERTA_TOKENS
    else:
        tokenizer, tokens = _word_piece(size), BERT_TOKENS
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{role}_token": text for role, text in tokens.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def _word_piece(size: int) -> Tokenizer:
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = [*BERT_TOKENS.values(), *letters, *(f"##{letter}" for letter in letters)]
    words += [f"filler{index}" for index in range(size - len(words))]
    vocabulary = {word: index for index, word in enumerate(words[:size])}
    unknown = BERT_TOKENS["unk"]
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    _mark_special(tokenizer, BERT_TOKENS)
    return tokenizer


def _byte_level(size: int) -> Tokenizer:
    special = list(dict.fromkeys(ROBERTA_TOKENS.values()))
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"<filler{index}>" for index in range(size - len(words))]
    vocabulary = {word: index for index, word in enumerate(words[:size])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    _mark_special(tokenizer, ROBERTA_TOKENS)
    return tokenizer


def _unigram(size: int) -> Tokenizer:
    """Make one whose last ids are missing, as the embedding of a T5 is longer than its words."""
    letters = string.ascii_letters + string.digits + string.punctuation
    words = [*T5_TOKENS.values(), "▁", *letters]
    words += [f"filler{index}" for index in range(size - len(words) - 4)]
    pieces = [(word, -1.0 - 0.01 * index) for index, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    _mark_special(tokenizer, T5_TOKENS)
    return tokenizer


def _mark_special(tokenizer: Tokenizer, tokens: dict[str, str]) -> None:
    texts = dict.fromkeys(tokens.values())
    tokenizer.add_special_tokens(
        [
            AddedToken(text, special=True, normalized=False, lstrip=text == "<mask>")
            for text in texts
        ]
    )
