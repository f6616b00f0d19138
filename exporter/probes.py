"""Texts whose token ids are stored in every bundle: where tokenizers usually come to differ.

Digits, contractions, runs of spaces, line ends, letters with accents, scripts without spaces,
emoji made of several code points, and text that looks like a special token but is not.
"""

PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "It's 12,345.678 degrees; we'll see what they'd say.",
    "    four spaces\n\n\ttab\r\nand a line end ",
    "Größe, naïveté, Ελληνικά, русский, हिन्दी",
    "日本語と中文，한국어",
    "thumbs 👍🏽 family 👨‍👩‍👧‍👦",
    "for (int i = 0; i < 10; ++i) { a[i] <<= 2; }",
    "",
)

CHAT_MESSAGES = ({"role": "user", "content": "What is the capital of France?"},)
