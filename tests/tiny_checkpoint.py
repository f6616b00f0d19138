"""Tiny checkpoints whose weights come from a numpy seed: the same in every test and in the oracle.

A case is a JSON file in data/architectures: a Hugging Face configuration, a seed and token ids. The
tensors are those that our own model definition declares, so a definition that forgets one fails
against transformers (data/logits, written by oracle/write_logits.py).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint.rotary_configuration import with_one_rotary_form
from edgewise.exporter.graph.protocol import GraphBuilder
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import find_model

DATA = Path(__file__).parent / "data"
CASES = sorted(path.stem for path in (DATA / "architectures").glob("*.json"))
STANDARD_DEVIATION = 0.2  # wide enough that the largest logits are well apart


@dataclass(frozen=True)
class Case:
    """One architecture's tiny configuration and what is fed to it."""

    name: str
    config: dict[str, Any]
    seed: int
    sequences: tuple[tuple[int, ...], ...]

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Make every tensor of the checkpoint, each from its own generator."""
        definition = find_model(self.config["model_type"])
        specifications = definition.tensors(
            definition.configuration(with_one_rotary_form(self.config))
        )
        return {
            name: random_tensor(name, self.seed, specification.shape, specification.role)
            for name, specification in specifications.items()
        }

    def expected_logits(self) -> list[NDArray[np.float32]]:
        """Return what transformers computes: one float32 [tokens, vocabulary] a sequence."""
        with np.load(DATA / "logits" / f"{self.name}.npz", allow_pickle=False) as stored:
            return [stored[f"sequence_{index}"] for index in range(len(self.sequences))]


def load_case(name: str) -> Case:
    content = json.loads((DATA / "architectures" / f"{name}.json").read_text())
    return Case(
        name,
        content["config"],
        content["seed"],
        tuple(tuple(sequence) for sequence in content["sequences"]),
    )


def write_checkpoint(case: Case, folder: Path, tokenizer_json: str | None = None) -> Path:
    """Write a Hugging Face folder; a word-level tokenizer is made where none is given."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case.config))
    save_file(case.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    text = tokenizer_json if tokenizer_json is not None else _tokenizer(case.config["vocab_size"])
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<end>", "bos_token": "<begin>", "chat_template": TEMPLATE})
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    return folder


@dataclass(frozen=True)
class ArraySource:
    """A weight that is in memory."""

    array: NDArray[np.float32]
    stored_type: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        return self.array[start:stop]

    def read_blocks(self, start: int = 0, stop: int | None = None) -> None:
        return None


class TinyModel:
    """A case's definition over arrays, for any builder."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.definition = find_model(case.config["model_type"])
        self.configuration = self.definition.configuration(with_one_rotary_form(case.config))
        self.specifications = self.definition.tensors(self.configuration)
        self.arrays = case.tensors()

    def forward(self, builder: GraphBuilder[Any]) -> None:
        self.definition.forward(builder, self.configuration, self.weight)

    def weight(self, name: str) -> Weight:
        return Weight(name, self.specifications[name].role, ArraySource(self.arrays[name]))


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def random_tensor(name: str, seed: int, shape: tuple[int, ...], role: str) -> NDArray[np.float32]:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = generator.normal(0, STANDARD_DEVIATION, shape)
    return (values + 1 if role == "norm" else values).astype(np.float32)


def _tokenizer(vocabulary_size: int) -> str:
    """Make a byte-level BPE without merges: 2 special tokens, 256 bytes, fillers."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<begin>", "<end>", *alphabet]
    words += [f"<filler{index}>" for index in range(vocabulary_size - len(words))]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(words[:vocabulary_size])}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in words[:2]]
    )
    return tokenizer.to_str()
