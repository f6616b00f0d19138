"""Token ids into text, one at a time, never half a character.

Workflow: `TokenBytes` knows, once a tokenizer, which bytes each token stands for; a `Detokenizer`,
one a generation, decodes those bytes as they come: `push` each id, `finish` at the end. Work and
memory a token do not depend on how much came before.

Rules: the texts put together equal the tokenizer's own decoding of all the ids, special tokens
skipped. One difference is meant: where byte-fallback tokens in a row are no valid UTF-8 as a whole,
`tokenizers` turns every byte of the row into U+FFFD, complete characters too. That can not be
streamed, and loses text; here complete characters are kept, and every other byte gives one U+FFFD.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from edgewise.common.errors import EdgewiseError

if TYPE_CHECKING:
    import tokenizers

_ERRORS_BY_BYTE = "edgewise.replace_each_byte"
# What `tokenizers` tidies in each word of a WordPiece text, in this order.
_TIDIED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class TokenizerError(EdgewiseError):
    """A tokenizer that can not be used, or gives other ids than the model was exported with."""


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_ERRORS_BY_BYTE, _replace_each_byte)


def _byte_level_table() -> dict[str, int]:
    """Return the byte of each of GPT-2's stand-ins: printable Latin-1, the others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


class TokenBytes:
    """The bytes that each token of a tokenizer stands for."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Read the tokenizer's decoder.

        Args:
            tokenizer: With a decoder of one of the kinds byte-level (GPT-2, Llama 3, Qwen),
                replace + byte-fallback + fuse + strip (SentencePiece: Llama 2, Gemma, Phi-3),
                metaspace, or WordPiece (BERT).

        Raises:
            TokenizerError: It has another decoder, or none.
        """
        self._tokenizer = tokenizer
        self._special = {
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self._cache: dict[tuple[int, bool], bytes] = {}
        self._word_piece: tuple[str, bool] | None = None  # prefix of continued words, tidy
        self._byte_level: dict[str, int] | None = None
        self._replacements: list[tuple[str, str]] = []
        self._byte_fallback = False
        self.stripped_at_start = ("", 0)  # the character, and how many of it at most
        self.dropped_in_first: str | None = None  # a character that the first token loses
        self._read(_decoder_steps(tokenizer.decoder))
        self.errors = _ERRORS_BY_BYTE if self._byte_fallback else "replace"

    def of(self, token_id: int, *, first: bool = False) -> bytes:
        """Return the bytes of a token; none for special tokens and ids without a token.

        Args:
            token_id: The token.
            first: Whether it is the first of its text, which only WordPiece writes otherwise.
        """
        piece = self._cache.get((token_id, first))
        if piece is None:
            piece = self._cache[token_id, first] = self._compute(token_id, first)
        return piece

    def _compute(self, token_id: int, first: bool) -> bytes:  # noqa: FBT001 - private, read at the call
        token = None if token_id in self._special else self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._word_piece is not None:
            return _word_piece_text(token, first, *self._word_piece).encode()
        if self._byte_level is not None:
            table = self._byte_level
            if all(character in table for character in token):
                return bytes(table[character] for character in token)
            return token.encode()  # an added token, written in plain text
        for old, new in self._replacements:
            token = token.replace(old, new)
        if self._byte_fallback and re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.encode()

    def _read(self, steps: list[dict[str, Any]]) -> None:
        kinds = [step["type"] for step in steps]
        if kinds == ["ByteLevel"]:
            self._byte_level = _byte_level_table()
            return
        if kinds == ["WordPiece"]:
            (step,) = steps
            self._word_piece = (step["prefix"], step["cleanup"])
            return
        if kinds == ["Metaspace"]:
            (step,) = steps
            self._replacements = [(step["replacement"], " ")]
            if step.get("prepend_scheme", "always") != "never":
                self.dropped_in_first = " "
            return
        shape = re.fullmatch("(Replace )*(ByteFallback )?(Fuse (Strip )?)?", "".join(
            f"{kind} " for kind in kinds
        ))  # fmt: skip
        if not kinds or shape is None:
            raise _unknown_decoder(kinds)
        for step in steps:
            if step["type"] == "Replace":
                if "String" not in step["pattern"]:
                    raise _unknown_decoder([f"Replace of {step['pattern']}"])
                self._replacements.append((step["pattern"]["String"], step["content"]))
            elif step["type"] == "ByteFallback":
                self._byte_fallback = True
            elif step["type"] == "Strip":
                if step["stop"] != 0:
                    raise _unknown_decoder([f"Strip of {step['stop']} characters at the end"])
                self.stripped_at_start = (step["content"], step["start"])


def _word_piece_text(token: str, first: bool, prefix: str, tidy: bool) -> str:  # noqa: FBT001 - as above
    if not first:
        token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
    for old, new in _TIDIED if tidy else ():
        token = token.replace(old, new)
    return token


def _decoder_steps(decoder: Any) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    description = json.loads(decoder.__getstate__())  # its part of tokenizer.json
    pending, steps = [description], []
    while pending:
        step = pending.pop(0)
        if step["type"] == "Sequence":
            pending = step["decoders"] + pending
        else:
            steps.append(step)
    return steps


def _unknown_decoder(kinds: list[str]) -> TokenizerError:
    return TokenizerError(
        f"the tokenizer's decoder is {' + '.join(kinds) or 'absent'}; accepted: ByteLevel,"
        " Metaspace, WordPiece, or Replace + ByteFallback + Fuse + Strip (of the start)"
    )


class Detokenizer:
    """The text of one generation."""

    def __init__(self, token_bytes: TokenBytes, *, continues: bool = False) -> None:
        """Begin a text.

        Args:
            token_bytes: Of the tokenizer.
            continues: The tokens continue a text, so the space that SentencePiece puts before a
                first word is a real one and is kept.
        """
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(token_bytes.errors)
        self._strip_character, self._strip_left = token_bytes.stripped_at_start
        self._drop = token_bytes.dropped_in_first
        self._first = not continues
        if continues:
            self._strip_left, self._drop = 0, None

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that is complete now, maybe none."""
        piece = self._token_bytes.of(token_id, first=self._first)
        self._first = self._first and not piece
        if self._drop is not None and piece:
            piece = piece.replace(self._drop.encode(), b"")
            self._drop = None
        text = self._decoder.decode(piece)
        return self._strip_start(text) if self._strip_left and text else text

    def finish(self) -> str:
        """End the text: bytes that never became a character come out as U+FFFD."""
        return self._strip_start(self._decoder.decode(b"", final=True))

    def _strip_start(self, text: str) -> str:
        while self._strip_left and text.startswith(self._strip_character):
            text = text[len(self._strip_character) :]
            self._strip_left -= 1
        if text:
            self._strip_left = 0
        return text
