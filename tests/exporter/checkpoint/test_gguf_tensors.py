"""GGUF tensors: bit for bit what the reference decodes, by rows, in Hugging Face's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.exporter.checkpoint import open_checkpoint
from edgewise.exporter.checkpoint.gguf_blocks import BLOCKS
from edgewise.exporter.checkpoint.gguf_header import read_header
from edgewise.exporter.checkpoint.gguf_tensors import GgufTensor
from edgewise.exporter.checkpoint.mapped_file import MappedFile

ROWS, COLUMNS, HEAD_SIZE = 24, 512, 8
TYPES = [block.name for block in BLOCKS.values()]
# Where each block has its float16 scales; random bits there could be infinite or no number.
SCALE_BYTES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def random_rows(kind: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """Rows of valid blocks with every bit of the quantized values at random."""
    block_values, block_size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if kind in ("F32", "F16", "BF16"):
        values = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
        raw = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
        return np.ascontiguousarray(raw).view(np.uint8).reshape(ROWS, -1)
    blocks = random.integers(
        0, 256, (ROWS, COLUMNS // block_values, block_size), np.uint8, endpoint=False
    )
    for offset in SCALE_BYTES[kind]:
        scales = random.standard_normal((*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., offset : offset + 2] = scales.view(np.uint8)
    return blocks.reshape(ROWS, -1)


def write_one(path: Path, raw: NDArray[np.uint8], kind: str) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    if kind in ("F32", "F16"):
        writer.add_tensor("t.weight", raw.view(np.float32 if kind == "F32" else np.float16))
    else:
        writer.add_tensor("t.weight", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_of(path: Path, rotated_head_size: int | None = None) -> GgufTensor:
    file = MappedFile(path)
    entry = read_header(file).tensors["t.weight"]
    return GgufTensor("t", entry.shape, entry.block, file, entry.offset, rotated_head_size)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_decodes_as_the_reference(kind: str, tmp_path: Path) -> None:
    raw = random_rows(kind, np.random.default_rng(5))
    write_one(tmp_path / "one.gguf", raw, kind)
    tensor = tensor_of(tmp_path / "one.gguf")
    expected = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind]).reshape(ROWS, COLUMNS)
    whole = tensor.read()
    assert (tensor.shape, tensor.stored_type) == ((ROWS, COLUMNS), kind)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    assert whole.tobytes() == expected.astype(np.float32).tobytes()
    for start, stop in ((0, 1), (3, 17), (ROWS - 1, ROWS), (5, 5)):
        assert tensor.read(start, stop).tobytes() == whole[start:stop].tobytes()
    blocks = tensor.read_blocks(2, 9)
    if kind in ("F32", "F16", "BF16"):
        assert blocks is None
    else:
        assert blocks is not None
        assert blocks.dtype == np.uint8
        assert blocks.tobytes() == raw[2:9].tobytes()


@pytest.mark.parametrize("kind", TYPES)
def test_rotated_rows_come_in_order_decoded_and_raw(kind: str, tmp_path: Path) -> None:
    raw = random_rows(kind, np.random.default_rng(6))
    heads = ROWS // HEAD_SIZE
    halves = raw.reshape(heads, 2, HEAD_SIZE // 2, -1)
    write_one(
        tmp_path / "one.gguf",
        np.ascontiguousarray(halves.swapaxes(1, 2).reshape(raw.shape)),
        kind,
    )
    tensor = tensor_of(tmp_path / "one.gguf", HEAD_SIZE)
    expected = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind]).reshape(ROWS, COLUMNS)
    for start, stop in ((0, ROWS), (0, 1), (2, 11), (7, 9), (ROWS - 1, ROWS), (4, 4)):
        assert np.array_equal(tensor.read(start, stop), expected[start:stop])
        blocks = tensor.read_blocks(start, stop)
        if blocks is not None:
            assert np.array_equal(blocks, raw[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, ROWS + 1)])
def test_rows_outside_the_tensor_are_refused(start: int, stop: int, tmp_path: Path) -> None:
    write_one(tmp_path / "one.gguf", random_rows("Q8_0", np.random.default_rng(7)), "Q8_0")
    tensor = tensor_of(tmp_path / "one.gguf")
    with pytest.raises(ValueError, match="not within"):
        tensor.read(start, stop)
    with pytest.raises(ValueError, match="not within"):
        tensor.read_blocks(start, stop)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_file_gives_the_original_weights_by_their_names(
    make_gguf: Any, architecture: str, tied: bool
) -> None:
    path, original = make_gguf(architecture=architecture, biases=True, tied=tied)
    with open_checkpoint(str(path)) as checkpoint:
        assert set(checkpoint.tensors) == set(original)
        for name, values in original.items():
            tensor = checkpoint.tensors[name]
            assert (tensor.name, tensor.shape) == (name, values.shape)
            assert np.array_equal(tensor.read(), values), name
            assert np.array_equal(tensor.read(1, 70), values[1:70]), name
        assert checkpoint.config["tie_word_embeddings"] is tied


def test_decoding_in_pieces_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_one(tmp_path / "one.gguf", random_rows("Q4_K", np.random.default_rng(8)), "Q4_K")
    tensor = tensor_of(tmp_path / "one.gguf")
    whole = tensor.read()
    monkeypatch.setattr("edgewise.exporter.checkpoint.gguf_blocks.DECODED_AT_ONCE", 5 * COLUMNS)
    assert np.array_equal(tensor.read(), whole)
