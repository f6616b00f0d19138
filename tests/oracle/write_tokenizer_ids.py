"""Write the ids that transformers' tokenizers give, as goldens for those made of older files.

Small vocabularies are trained on the texts themselves and kept in the golden, as the very files
that a checkpoint's folder would hold. Needs transformers and sentencepiece:

    python tests/oracle/write_tokenizer_ids.py           # write tests/data/tokenizers/slow/*.json
    python tests/oracle/write_tokenizer_ids.py --check   # compare what is stored with a run

Llama's cases are those of its slow class, which transformers has up to release 4: each release does
its own cases. One of them has a real vocabulary, which a package carries (orca2_tokenizer.py).
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parents[1]))
import orca2_tokenizer

TARGET = Path(__file__).parents[1] / "data" / "tokenizers" / "slow"
HAS_SLOW_CLASSES = int(transformers.__version__.split(".")[0]) < 5
TEXTS = [
    "The capital of France is Paris.",
    "Hello, world! It's 3.14159 o'clock; they're 12345 years old, I'd say.",
    "two  spaces, three   inside, trailing   ",
    "tabs\tand\t\ttabs\nnew\n\nlines\r\n\r\nwindows\n\n\n",
    "def f(x):\n    return x ** 2  # squared\n        deep\n",
    "你好，世界。東京は日本の首都です。안녕하세요",
    "emoji 🙂👍🏽 family 👨‍👩‍👧 flag 🇫🇷 end",
    "Ünïcödé naïve façade — “quoted” … ½ ² Ⅷ ٣٤٥",
    "Привет, мир! Γειά σου Κόσμε नमस्ते",
    "price: $1,234.56 + €7 <= £8 ~ 100% ^_^ |x|",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "x" * 101,
    "",
]
PAIRS = [("A first text.", "And a second one."), ("", "x"), ("Paris", "x")]


def trained_merges(count: int) -> tuple[dict[str, int], str]:
    """Train byte-level BPE; give the vocabulary and merges.txt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=count,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    return model["vocab"], "\n".join(lines) + "\n"


def byte_level_files(first: list[str], last: list[str]) -> dict[str, str]:
    """Give vocab.json and merges.txt with tokens before and behind the trained ones."""
    vocabulary, merges = trained_merges(400)
    texts = [*first, *sorted(vocabulary, key=vocabulary.__getitem__), *last]
    ids = {text: index for index, text in enumerate(texts)}
    return {"vocab.json": json.dumps(ids, ensure_ascii=False), "merges.txt": merges}


def word_list(*, lowercase: bool) -> str:
    """Train WordPiece and give vocab.txt."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token, no secret
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=330,
        limit_alphabet=120,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    vocabulary = tokenizer.get_vocab()
    return "".join(f"{text}\n" for text in sorted(vocabulary, key=vocabulary.__getitem__))


def sentence_piece(kind: str, **settings: Any) -> bytes:
    """Train a SentencePiece model that does not normalize, so that the file stays small."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=file,
        model_type=kind,
        normalization_rule_name="identity",
        minloglevel=3,
        **settings,
    )
    return file.getvalue()


def described(text: str, **flags: bool) -> dict[str, Any]:
    names = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {"content": text} | {name: flags.get(name, False) for name in names}


def cases() -> dict[str, dict[str, Any]]:
    """Give each case's class, files and texts beside TEXTS."""
    whitespace = {" " * count: 0 for count in range(31, 1, -1)}
    whitespace |= {"\t" * count: 0 for count in range(9, 1, -1)}
    codegen = byte_level_files([], ["<|endoftext|>"])
    size = len(json.loads(codegen["vocab.json"]))
    roberta = byte_level_files(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"])
    orca = ["[PAD]", "<|im_start|>", "<|im_end|>"]
    llama = sentence_piece("bpe", vocab_size=480, byte_fallback=True, character_coverage=0.98,
                           remove_extra_whitespaces=False, hard_vocab_limit=False)  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=llama).get_piece_size()
    t5 = sentence_piece("unigram", vocab_size=220, character_coverage=0.98, pad_id=0, eos_id=1,
                        unk_id=2, bos_id=-1, hard_vocab_limit=False)  # fmt: skip
    mask = described("<mask>", lstrip=True, special=True)
    return {
        "bert_uncased": {
            "class": "BertTokenizer",
            "files": {"vocab.txt": word_list(lowercase=True)},
            "settings": {"do_lower_case": True},
            "texts": ["the [MASK] of France [SEP] is [MASK].", "[CLS]x"],
        },
        "bert_cased": {
            "class": "BertTokenizer",
            "files": {"vocab.txt": word_list(lowercase=False)},
            "settings": {"do_lower_case": False, "tokenize_chinese_chars": False},
            "texts": [],
        },
        "roberta": {
            "class": "RobertaTokenizer",
            "files": roberta,
            "settings": {"mask_token": {"__type": "AddedToken", **mask}},
            "texts": ["The capital of France is <mask>.", "<mask> <mask>x</s> y<s>"],
        },
        "gpt2": {
            "class": "GPT2Tokenizer",
            "files": codegen,
            "settings": {},
            "texts": ["a<|endoftext|>b <|endoftext|>"],
        },
        "gpt2_prefix": {
            "class": "GPT2Tokenizer",
            "files": codegen,
            "settings": {"add_prefix_space": True},
            "texts": [],
        },
        "codegen": {
            "class": "CodeGenTokenizer",
            "files": codegen
            | {
                "added_tokens.json": json.dumps(
                    {text: size + index for index, text in enumerate(whitespace)}
                )
            },
            "settings": {},
            "texts": ["    if x:\n\t\treturn 1\n" + " " * 70 + "x", " a", "  b<|endoftext|>   c"],
        },
        "qwen2": {
            "class": "Qwen2Tokenizer",
            "files": byte_level_files([], ["<|endoftext|>"]),
            "settings": {
                "added_tokens_decoder": {
                    str(size - 1): described("<|endoftext|>", special=True),
                    str(size): described("<|im_start|>", special=True),
                    str(size + 1): described("<tool>"),
                }
            },
            "texts": ["<|im_start|>user\nCafe\u0301 12<tool>3<|endoftext|>"],
        },
        "orca": {
            "class": "LlamaTokenizer",
            "files": {
                "tokenizer.model": base64.b64encode(llama).decode(),
                "added_tokens.json": json.dumps({text: pieces + i for i, text in enumerate(orca)}),
            },
            "settings": {"legacy": False, "add_bos_token": True, "add_eos_token": False,
                         "pad_token": "[PAD]"},
            "texts": ["<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant",
                      "<|im_start|>user\nHello, world!", "a</s>\nThe capital</s> of<s>France"],
        },
        "llama_legacy": {
            "class": "LlamaTokenizer",
            "files": {"tokenizer.model": base64.b64encode(llama).decode()},
            "settings": {"legacy": True, "add_bos_token": True},
            "texts": ["a</s>\nThe capital</s>of<s>France"],
        },
        "t5": {
            "class": "T5Tokenizer",
            "files": {"spiece.model": base64.b64encode(t5).decode()},
            "settings": {},
            "texts": ["The <extra_id_0> of France <extra_id_1>is<extra_id_99> Paris</s> x",
                      "  two  spaces "],
        },
    }  # fmt: skip


def computed(case: dict[str, Any]) -> dict[str, Any]:
    """Encode a case's texts with the class that it names."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in case["files"].items():
            data = base64.b64decode(content) if name.endswith(".model") else content.encode()
            (Path(folder) / name).write_bytes(data)
        settings = {"tokenizer_class": case["class"], **case["settings"]}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = getattr(transformers, case["class"]).from_pretrained(folder)
    # T5 takes tabs and line ends for spaces if its model normalizes, which this one does not.
    plain = [
        text for text in TEXTS if case["class"] != "T5Tokenizer" or not set(text) & set("\n\t")
    ]
    texts = [[text] for text in (*plain, *case["texts"])] + [list(pair) for pair in PAIRS]
    return {
        "reference": f"transformers {transformers.__version__}",
        "class": case["class"],
        "settings": settings,
        "files": case["files"],
        "cases": [{"texts": given, "ids": tokenizer(*given)["input_ids"]} for given in texts],
    }


def belongs_here(case: dict[str, Any]) -> bool:
    """Tell whether this release of transformers computes a case."""
    return (case["class"] == "LlamaTokenizer") == HAS_SLOW_CLASSES


def written(content: dict[str, Any]) -> str:
    """Write a golden with one encoded text a line."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in content.pop("cases"))
    return f'{json.dumps(content, ensure_ascii=False)[:-1]}, "cases": [\n{lines}\n]}}\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    differing = 0
    TARGET.mkdir(exist_ok=True)
    found = {TARGET / f"{name}.json": case for name, case in cases().items()}
    found[orca2_tokenizer.GOLDEN] = orca2_tokenizer.case()
    for path, case in found.items():
        if not belongs_here(case):
            continue
        if arguments.check:
            stored = json.loads(path.read_text())
            files = {**case["files"], **stored["files"]}
            same = stored["cases"] == computed({**case, "files": files})["cases"]
            differing += not same
            print(f"{path.stem}: {'equal' if same else 'DIFFERENT'}")
            continue
        result = computed(case)
        if path == orca2_tokenizer.GOLDEN:
            del result["files"]["tokenizer.model"]
        path.write_text(written(result), encoding="utf-8")
        print(f"{path.stem}: {path.stat().st_size} bytes")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
