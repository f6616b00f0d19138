"""The text that a model is calibrated on, as the model reads it.

Workflow: `CalibrationFile.read` takes a file before anything large is opened, `windows_of` cuts it
into windows of tokens with the checkpoint's tokenizer. Rules: windows lie spread over the whole
text and do not overlap; of a long text only the parts that they come from are tokenized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.checkpoint import TokenizerFiles

WINDOW = 256  # tokens that see each other; a model's positions may be fewer
MOST_TOKENS = 4096  # measured: more bring little
LEAST_TOKENS = 512  # fewer say too little of what a layer's inputs have in common
FILE_MAX_BYTES = 16 << 20
_CHARACTERS = 16  # of a token, in which nearly every one fits


@dataclass(frozen=True)
class CalibrationFile:
    """A text file that was read.

    Attributes:
        name: Of the file, without its folders.
        text: All of it.
        sha256: Of its bytes.
    """

    name: str
    text: str
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of UTF-8 text.

        Raises:
            CalibrationError: It can not be read, is no text, or is too large.
        """
        try:
            size = path.stat().st_size
            if size > FILE_MAX_BYTES:
                raise CalibrationError(
                    f"the calibration text {path} has {size} bytes; at most {FILE_MAX_BYTES} are "
                    "read, of which a few pages are used: give a part of it"
                )
            content = path.read_bytes()
        except OSError as error:
            raise CalibrationError(
                f"the calibration text {path} can not be read: {error.strerror or error}; "
                "give a file of plain text, some pages long"
            ) from error
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CalibrationError(
                f"the calibration text {path} is no UTF-8 text (byte {error.start}); "
                "give a file of plain text, some pages long"
            ) from error
        return cls(path.name, text, hashlib.sha256(content).hexdigest())


def windows_of(
    file: CalibrationFile, tokenizer: TokenizerFiles, positions: int
) -> NDArray[np.int64]:
    """Cut windows of tokens from a text.

    A model whose prompts begin with a token has it at the beginning of each window.

    Args:
        file: The text.
        tokenizer: The checkpoint's.
        positions: Tokens that the model was made for.

    Returns:
        int64 [windows, tokens], of WINDOW tokens or as many as the model was made for.

    Raises:
        CalibrationError: The text is too short.
    """
    window = min(WINDOW, positions)
    beginning = (
        [tokenizer.beginning_token_id]
        if tokenizer.add_beginning_token and tokenizer.beginning_token_id is not None
        else []
    )
    length = window - len(beginning)
    excerpts = _excerpts(file.text, MOST_TOKENS // window, _CHARACTERS * window)
    windows: list[list[int]] = []
    tokens = 0
    for ids in encoded(excerpts, tokenizer):
        tokens += len(ids)
        count = min(MOST_TOKENS // window // len(excerpts), len(ids) // length)
        starts = np.linspace(0, len(ids) - length, count).astype(int) if count else ()
        windows += [[*beginning, *ids[start : start + length]] for start in starts]
    if len(windows) * window < LEAST_TOKENS:
        raise CalibrationError(
            f"the calibration text {file.name} has {tokens} tokens; at least {LEAST_TOKENS} are "
            f"needed, and up to {MOST_TOKENS} are used: give a longer text"
        )
    return np.asarray(windows, np.int64)


def encoded(texts: Sequence[str], tokenizer: TokenizerFiles) -> list[list[int]]:
    """Return the ids of texts without the tokens that a tokenizer puts around them."""
    encoder = Tokenizer.from_str(tokenizer.tokenizer_json)
    return [encoder.encode(text, add_special_tokens=False).ids for text in texts]


def _excerpts(text: str, count: int, length: int) -> list[str]:
    """Return the whole of a short text, of a long one parts that lie spread over it."""
    if len(text) <= count * length:
        return [text]
    starts = np.linspace(0, len(text) - length, count).astype(int)
    return [text[start : start + length] for start in starts]
