"""Text into token ids: a thin wrapper on `tokenizers` that follows the manifest.

Workflow: `Tokenizer.open` loads tokenizer.json and encodes the manifest's probes; ids that differ
from those the model was exported with are an error, because such a model answers, but nonsense.

Rules: whether a beginning token comes first is the manifest's to say, never tokenizer.json's post-
processor. Texts of special tokens are understood where a template or a raw prompt writes them.
Chat messages are inserted into the rendered template before it is encoded, as in transformers and
llama.cpp, so the text of a special token inside a message becomes that token too: whoever passes on
messages of strangers must know. Raw text of strangers is encoded with ``special=False``, which
never gives a special token.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import tokenizers

from edgewise.runtime.bundle import Bundle
from edgewise.runtime.detokenizer import Detokenizer, TokenBytes, TokenizerError
from edgewise.runtime.labelled_spans import TokenSpan
from edgewise.runtime.manifest import Manifest

_SHOWN_IDS = 12  # of a probe, in an error


class Tokenizer:
    """The tokenizer of a bundle."""

    def __init__(self, inner: tokenizers.Tokenizer, manifest: Manifest) -> None:
        """Wrap a tokenizer and check it against the manifest.

        Args:
            inner: From tokenizer.json; its padding and truncation are switched off.
            manifest: Of the bundle.

        Raises:
            TokenizerError: It gives other ids than the manifest's probes say, or its ids do not
                fit the model's vocabulary, or its decoder is of an unknown kind.
        """
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self._tokens = manifest.tokens
        self._token_bytes = TokenBytes(inner)
        self._special_lock = threading.Lock()  # `encode_special_tokens` is a state of `inner`
        largest = max(inner.get_added_tokens_decoder(), default=0)
        size = max(inner.get_vocab_size(with_added_tokens=False), largest + 1)
        if size > manifest.vocabulary_size:
            raise TokenizerError(
                f"the tokenizer has {size} ids, the model knows {manifest.vocabulary_size}: they do"
                " not belong together; export the bundle again"
            )
        for probe in manifest.probes:
            _check_probe(probe.text, self.encode(probe.text), list(probe.ids))

    @classmethod
    def open(cls, bundle: Bundle) -> Tokenizer:
        """Load the tokenizer of a bundle.

        Raises:
            TokenizerError: As the constructor, or tokenizer.json can not be read.
        """
        path = bundle.file("tokenizer")
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing more exact
            raise TokenizerError(
                f"{path} can not be read by tokenizers {tokenizers.__version__}: {error};"
                " upgrade tokenizers or export the bundle again"
            ) from error
        return cls(inner, bundle.manifest)

    def encode(
        self, text: str, *, add_beginning: bool | None = None, special: bool = True
    ) -> list[int]:
        """Encode a text.

        Args:
            text: Any text.
            add_beginning: Put the beginning token first; None: if the manifest says so. A rendered
                chat template writes its own, so False there.
            special: Whether the text of a special token becomes that token.

        Returns:
            The token ids.

        Raises:
            TokenizerError: The text holds half a surrogate pair and so is no Unicode text.
        """
        ids: list[int] = self._encoding(text, special=special).ids
        beginning = self._tokens.beginning
        if add_beginning is None:
            add_beginning = self._tokens.add_beginning
        if add_beginning and beginning is not None:
            return [beginning, *ids]
        return ids

    def spans(self, text: str) -> list[TokenSpan]:
        """Encode a text, and say where each token stands in it.

        Raises:
            TokenizerError: As `encode`.
        """
        encoding = self._encoding(text, special=True)
        return [
            TokenSpan(token_id, start, end, word)
            for token_id, (start, end), word in zip(
                encoding.ids, encoding.offsets, encoding.word_ids, strict=True
            )
        ]

    def _encoding(self, text: str, *, special: bool) -> tokenizers.Encoding:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"the text holds {error.object[error.start]!r} at {error.start}, half of a"
                " surrogate pair; give valid Unicode text"
            ) from error
        with self._special_lock:
            self._inner.encode_special_tokens = not special
            return self._inner.encode(text, add_special_tokens=False)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the whole text of some ids, special tokens left out."""
        return self._inner.decode(list(token_ids), skip_special_tokens=True)

    def text_of(self, token_id: int) -> str | None:
        """Return how a token is written in a text, as "[MASK]" is; None where there is none."""
        text: str | None = self._inner.id_to_token(token_id)
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """Return what a token adds to a text that it does not begin; nothing for special tokens."""
        return self._token_bytes.of(token_id)

    def detokenizer(self, *, continues: bool = False) -> Detokenizer:
        """Begin the text of a generation; see `Detokenizer`."""
        return Detokenizer(self._token_bytes, continues=continues)


def _check_probe(text: str, ids: list[int], expected: list[int]) -> None:
    if ids != expected:
        raise TokenizerError(
            f"the tokenizer encodes {text!r:.60} as {_shown(ids)}, the model was exported with"
            f" {_shown(expected)}: tokenizer.json was changed, or tokenizers"
            f" {tokenizers.__version__} reads it otherwise; export the bundle again"
        )


def _shown(ids: list[int]) -> str:
    start = ", ".join(map(str, ids[:_SHOWN_IDS]))
    return f"[{start}, ... {len(ids)} ids]" if len(ids) > _SHOWN_IDS else f"[{start}]"
