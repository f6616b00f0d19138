"""A tokenizer as Orca 2's, of real size: a real SentencePiece model with Orca's three tokens.

Orca 2's own vocabulary is Llama 2's, which no package carries; that of Mistral 7B is of the same
make and size: 32,000 pieces of byte-fallback BPE that normalize nothing. Its ids are kept in
data/tokenizers/orca-2.json, as the slow class of transformers 4 gives them, which Orca 2's model
card asks for.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from real_models import PackagedFile

GOLDEN = Path(__file__).parent / "data" / "tokenizers" / "orca-2.json"
PIECES = 32_000
ADDED = ("[PAD]", "<|im_start|>", "<|im_end|>")
MODEL = PackagedFile(
    ("mistral-common",),
    "mistral_common/data/tokenizer.model.v1",
    "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
)
SYSTEM = (
    "You are Orca, an AI language model created by Microsoft. You are a cautious assistant. "
    "You carefully follow instructions."
)
QUESTION = "How many  apples are left, if 3 of 12 are eaten?\n"
PROMPT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
    "<|im_start|>assistant"
)
TEXTS = (
    PROMPT,
    "\n<|im_start|>user\nGive me a list of the key points.<|im_end|>\n<|im_start|>assistant",
    " <|im_start|> user <|im_end|>",
    "<|im_end|><|im_start|>x",
    "a <|im_end|> b<|im_end|>c",
    "[PAD]x [PAD] y",
    "</s> x</s>y <s>",
    "<unk> a<unk>b",
    "▁x ▁▁ y",
    "    ",
    " leading",
    "a\u00a0b\u200bc\u3000d",
)


def model_file() -> Path:
    """Return the SentencePiece model, fetched if need be.

    Raises:
        NotAvailableError: Its package can not be fetched.
    """
    return MODEL.path("mistral-7b.model")


def case() -> dict[str, Any]:
    """Describe the folder and its texts as the oracle's cases are."""
    return {
        "class": "LlamaTokenizer",
        "files": {
            "tokenizer.model": base64.b64encode(model_file().read_bytes()).decode(),
            "added_tokens.json": json.dumps(
                {text: PIECES + number for number, text in enumerate(ADDED)}
            ),
        },
        "settings": {
            "legacy": False,
            "add_bos_token": True,
            "add_eos_token": False,
            "pad_token": "[PAD]",
        },
        "texts": list(TEXTS),
    }
