"""What a checkpoint is to the rest of the exporter, whatever file it came from.

Every reader gives the same: the configuration in Hugging Face's keys, tensors by Hugging Face's
names as lazy handles, the tokenizer as one `tokenizers` JSON, and where all of it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint.sentence_pooling import Pooling

Progress = Callable[[str, int, int], None]
"""Told while something is fetched: what, the bytes done, the bytes in all."""


class Tensor(Protocol):
    """A lazy handle on one tensor: it reads from a memory map and keeps nothing."""

    @property
    def name(self) -> str:
        """Hugging Face's name, as ``model.layers.0.self_attn.q_proj.weight``, also for GGUF."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major, in Hugging Face's orientation: [out_features, in_features]."""

    @property
    def stored_type(self) -> str:
        """The type in the file: ``F32``, ``F16``, ``BF16``, ``Q4_1``, ..."""

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Decode the rows ``start:stop`` of axis 0, or all to the end.

        Returns:
            float32 [stop - start, *shape[1:]].

        Raises:
            CheckpointError: The stored type has no decoding.
            ValueError: The rows are not within the tensor.
        """

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        """Give the undecoded blocks of the rows ``start:stop`` of a block-quantized tensor.

        Returns:
            uint8 [stop - start, bytes per row], rows in Hugging Face's order; None if the tensor
            is not stored in blocks.
        """


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer, complete, and the special tokens that generation and templates use."""

    tokenizer_json: str  # complete `tokenizers` JSON
    chat_template: str | None  # Jinja source
    beginning_token_id: int | None
    end_token_ids: tuple[int, ...]  # generation stops at any of them
    padding_token_id: int | None
    beginning_token: str | None  # for templates that use bos_token
    end_token: str | None  # for templates that use eos_token
    add_beginning_token: bool  # whether plain encoding prepends the beginning token
    mask_token_id: int | None = None  # stands for a word to be guessed
    separator_token_id: int | None = None  # what plain encoding puts behind a text
    separators_between: int = 0  # how many of them stand between two texts
    stop: tuple[str, ...] = ()  # texts that end an answer
    ends_source: bool = True  # whether an end token stands behind what an encoder-decoder reads
    chat_sample: str | None = None  # a message for a template that does not take any; None: it does
    sampled_vocabulary: int | None = None  # ids from here on are no tokens; None: as the tokenizer


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint came from; it goes into the bundle's manifest."""

    kind: str  # "folder" | "gguf" | "package" | "hub"
    name: str  # what the user gave, without the folders of this machine
    revision: str | None
    file_type: str  # "safetensors" | "gguf"
    license: str | None


def _nothing_to_close() -> None:
    pass


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint. Use it as a context, or call ``close`` once the tensors are read."""

    origin: Origin
    config: Mapping[str, Any]  # keys of a Hugging Face config.json, always with "model_type"
    generation: Mapping[str, Any]  # keys of a generation_config.json
    tensors: Mapping[str, Tensor]
    tokenizer: TokenizerFiles
    pooling: Pooling | None = None  # which states make a text's vector, if it says so
    image_processor: Mapping[str, Any] = field(default_factory=dict)  # of preprocessor_config.json
    folder: Path | None = None  # with its files as Hugging Face writes them; None of a GGUF file
    close: Callable[[], None] = field(default=_nothing_to_close, repr=False, compare=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def checked_rows(rows: int, start: int, stop: int | None) -> tuple[int, int]:
    """Resolve a row range against ``rows``.

    Raises:
        ValueError: It is not within the tensor.
    """
    end = rows if stop is None else stop
    if not 0 <= start <= end <= rows:
        raise ValueError(f"rows {start}:{end} are not within the {rows} rows of the tensor")
    return start, end
