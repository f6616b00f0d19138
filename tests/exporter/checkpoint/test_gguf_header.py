"""The GGUF header: equal to the reference reader's, and safe against any damage."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewise.exporter.checkpoint import CheckpointError, open_checkpoint
from edgewise.exporter.checkpoint.gguf_blocks import BLOCKS
from edgewise.exporter.checkpoint.gguf_header import read_header
from edgewise.exporter.checkpoint.mapped_file import MappedFile


def write_mixed(path: Path) -> None:
    """A file with a field of every type, and tensors of several."""
    writer = gguf.GGUFWriter(path, "llama")
    kinds = gguf.GGUFValueType
    for kind, value in (
        (kinds.UINT8, 250), (kinds.INT8, -3), (kinds.UINT16, 65000), (kinds.INT16, -30000),
        (kinds.UINT32, 4_000_000_000), (kinds.INT32, -2_000_000_000), (kinds.FLOAT32, 0.1),
        (kinds.BOOL, True), (kinds.STRING, "grün ▁"), (kinds.UINT64, 2**63 + 1),
        (kinds.INT64, -(2**62)), (kinds.FLOAT64, 1e-300),
    ):  # fmt: skip
        writer.add_key_value(f"test.{kind.name}", value, kind)
    writer.add_key_value("test.texts", ["", "a", "Ġ"], kinds.ARRAY, sub_type=kinds.STRING)
    writer.add_key_value("test.numbers", [1, -2, 3], kinds.ARRAY, sub_type=kinds.INT32)
    writer.add_key_value("test.scores", [0.5, -1.25], kinds.ARRAY, sub_type=kinds.FLOAT32)
    writer.add_key_value("test.flags", [True, False], kinds.ARRAY, sub_type=kinds.BOOL)
    random = np.random.default_rng(1)
    for name, shape in (("a", (3, 64)), ("b", (32,)), ("c", (2, 3, 32)), ("d", (1, 256))):
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    quantized = gguf.quantize(
        random.standard_normal((5, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("e", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_equal_to_the_reference_reader(tmp_path: Path) -> None:
    path = tmp_path / "mixed.gguf"
    write_mixed(path)
    reference = gguf.GGUFReader(path)
    header = read_header(MappedFile(path))
    expected = {
        name: field.contents()
        for name, field in reference.fields.items()
        if not name.startswith("GGUF.")
    }
    assert dict(header.fields) == expected
    assert {
        entry.name: (entry.shape, entry.block.kind, entry.offset)
        for entry in header.tensors.values()
    } == {
        tensor.name: (tuple(tensor.shape.tolist()[::-1]), tensor.tensor_type, tensor.data_offset)
        for tensor in reference.tensors
    }


def test_the_block_sizes_are_those_of_the_package() -> None:
    for block in BLOCKS.values():
        kind = gguf.GGMLQuantizationType[block.name]
        assert kind == block.kind
        assert gguf.GGML_QUANT_SIZES[kind] == (block.values, block.size)


def test_every_truncation_is_a_clear_error(make_gguf: Any, tmp_path: Path) -> None:
    path, _ = make_gguf(
        tensor_type="Q8_0", extra_tokens=(("<|endoftext|>", 3), ("<s>", 3), ("</s>", 3))
    )
    whole = path.read_bytes()
    header_end = read_header(MappedFile(path)).tensors["token_embd.weight"].offset
    lengths = [
        *range(0, header_end, 97),
        header_end,
        (header_end + len(whole)) // 2,
        len(whole) - 1,
    ]
    for length in lengths:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf (is|has)"):
            open_checkpoint(str(cut))


FUZZING = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def damaged(data: st.DataObject, content: bytes, end: int) -> bytes:
    """Change some bytes before ``end``."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed)


@FUZZING
@given(data=st.data())
def test_a_damaged_header_is_read_or_is_a_clear_error(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "mixed.gguf"
    if not path.exists():
        write_mixed(path)
    content = path.read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damaged(data, content, len(content)))
    file = MappedFile(broken)
    with contextlib.suppress(CheckpointError):
        for entry in read_header(file).tensors.values():
            assert entry.offset <= file.size
    file.close()


@FUZZING
@given(data=st.data())
def test_a_damaged_file_opens_or_is_a_clear_error(
    data: st.DataObject, tmp_path: Path, make_gguf: Any
) -> None:
    path = tmp_path / "small.gguf"
    if not path.exists():
        make_gguf()
    content = path.read_bytes()
    end = read_header(MappedFile(path)).tensors["token_embd.weight"].offset
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damaged(data, content, end))
    with contextlib.suppress(CheckpointError), open_checkpoint(str(broken)) as checkpoint:
        for tensor in checkpoint.tensors.values():
            assert tensor.read(0, min(2, tensor.shape[0])).dtype == np.float32


def raw_file(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def test_counts_that_the_file_could_not_hold_end_at_once(tmp_path: Path) -> None:
    huge = struct.pack("<Q", 2**63)
    start = b"GGUF" + struct.pack("<I", 3)
    key = struct.pack("<Q", 1) + b"k"
    array_of_bytes = struct.pack("<II", 9, 0)
    cases = {
        "tensors": [start, huge, struct.pack("<Q", 0)],
        "fields": [start, struct.pack("<Q", 0), huge],
        "key": [start, struct.pack("<QQ", 0, 1), huge, b"x" * 64],
        "array": [start, struct.pack("<QQ", 0, 1), key, array_of_bytes, huge],
    }
    for name, parts in cases.items():
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            read_header(MappedFile(raw_file(tmp_path / name, *parts)))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04 a zip archive....", "is no GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(64), "version 1; little-endian of version 2 or 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(64), "big-endian byte order"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77),
         "k has the unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 0),
         "array of the type 9"),
    ],
)  # fmt: skip
def test_other_files_are_named_for_what_they_are(
    start: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(MappedFile(raw_file(tmp_path / "other.gguf", start)))


def test_types_that_are_not_read_are_named_with_those_that_are(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "iq.gguf", "llama")
    kind = gguf.GGMLQuantizationType.IQ4_NL
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, 18), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_q\.weight \(IQ4_NL\).*Q6_K"):
        read_header(MappedFile(tmp_path / "iq.gguf"))


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "overlap.gguf"
    write_mixed(path)
    header = read_header(MappedFile(path))
    content = bytearray(path.read_bytes())
    entry = struct.pack("<Q", 1) + b"b" + struct.pack("<IQIQ", 1, 32, 0, 768)
    position = content.index(entry)
    assert header.tensors["b"].offset - header.tensors["a"].offset == 768
    content[position + len(entry) - 8 : position + len(entry)] = struct.pack("<Q", 32)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="tensor b begins within another"):
        read_header(MappedFile(path))


def test_an_empty_file_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(CheckpointError, match=r"empty\.gguf is empty"):
        open_checkpoint(str(tmp_path / "empty.gguf"))
    with pytest.raises(CheckpointError, match=r"can not be read: No such file"):
        MappedFile(tmp_path / "none.gguf")
