"""Texts whose token ids are stored in every bundle: where tokenizers usually come to differ.

Digits, contractions, runs of spaces, line ends, letters with accents, scripts without spaces,
emoji made of several code points, text that looks like a special token but is not, and special
tokens with text around them, where "slow" and "fast" tokenizers differ in the spaces that they put
or take.
"""

from __future__ import annotations

from collections.abc import Iterable

PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "It's 12,345.678 degrees; we'll see what they'd say.",
    "    four spaces\n\n\ttab\r\nand a line end ",
    "Größe, naïveté, Ελληνικά, русский, हिन्दी",
    "日本語と中文，한국어",
    "thumbs 👍🏽 family 👨‍👩‍👧‍👦",
    " a space before it",
    "for (int i = 0; i < 10; ++i) { a[i] <<= 2; }",
    "",
)


def probe_texts(special: Iterable[str]) -> tuple[str, ...]:
    """Return the probes of a tokenizer.

    Args:
        special: Texts of special tokens, each of which is probed behind and before text.
    """
    around = (f"{token}word{token}\nline {token} end" for token in dict.fromkeys(special))
    return (*PROBE_TEXTS, *around)


CHAT_MESSAGES = ({"role": "user", "content": "What is the capital of France?"},)
