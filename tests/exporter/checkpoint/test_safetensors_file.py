"""safetensors: exact values by rows, and refusal of every header that lies."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgewise.exporter.checkpoint import CheckpointError
from edgewise.exporter.checkpoint.safetensors_file import HEADER_LIMIT, open_safetensors

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


@pytest.mark.parametrize("stored_type", TYPES)
def test_values_are_exact_by_rows(stored_type: str, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    # every finite pattern of 16 bits, with subnormals, zeros of both signs and infinities
    patterns = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if stored_type in ("F16", "BF16"):
        values: NDArray[Any] = patterns.view(TYPES[stored_type])
    else:
        values = random.standard_normal((256, 256)).astype(TYPES[stored_type])
    tensors = {"matrix": values, "vector": values[3], "cube": values.reshape(16, 16, 256)}
    save_file(tensors, tmp_path / "one.safetensors")
    file, opened = open_safetensors(tmp_path / "one.safetensors")
    assert set(opened) == set(tensors)
    for name, original in tensors.items():
        tensor = opened[name]
        with np.errstate(invalid="ignore"):
            expected = original.astype(np.float32)
        assert (tensor.shape, tensor.stored_type) == (original.shape, stored_type)
        assert tensor.read().tobytes() == expected.tobytes()
        for start, stop in ((0, 1), (2, 9), (5, 5)):
            assert tensor.read(start, stop).tobytes() == expected[start:stop].tobytes()
            assert tensor.read(start, stop).shape == expected[start:stop].shape
        assert tensor.read_blocks() is None
        with pytest.raises(ValueError, match="not within"):
            tensor.read(0, original.shape[0] + 1)
    file.close()


def test_a_scalar_and_an_empty_tensor(tmp_path: Path) -> None:
    tensors = {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float32)}
    save_file(tensors, tmp_path / "odd.safetensors")
    _, opened = open_safetensors(tmp_path / "odd.safetensors")
    assert opened["scalar"].read().shape == ()
    assert opened["scalar"].read() == 2.5
    assert opened["empty"].read().shape == (0, 4)


def test_types_that_hold_no_weights_open_but_do_not_decode(tmp_path: Path) -> None:
    save_file({"ids": np.arange(4)}, tmp_path / "ids.safetensors")
    _, opened = open_safetensors(tmp_path / "ids.safetensors")
    with pytest.raises(CheckpointError, match=r"ids .*stored as I64; .*F32, F16, BF16"):
        opened["ids"].read()


def entry(
    begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32"
) -> dict[str, Any]:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_header(path: Path, header: object, data: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[1]", "no JSON object"),
        (b"{", "damaged safetensors header"),
        (b"\xff\xfe{}", "damaged safetensors header"),
        (b'{"a": {}, "a": {}}', "a name appears twice"),
        (b"[" * 100_000, "damaged safetensors header"),
        ({"a": 3}, "must have exactly dtype, shape and data_offsets"),
        ({"a": entry(0, 16) | {"more": 1}}, "must have exactly"),
        ({"a": entry(0, 16, dtype="F31")}, "has the type 'F31'"),
        ({"a": {"dtype": [], "shape": [4], "data_offsets": [0, 16]}}, "has the type"),
        ({"a": entry(0, 16, [-4])}, "no valid shape"),
        ({"a": entry(0, 16, [True, 4])}, "no valid shape"),
        ({"a": entry(0, 16, [1] * 9 + [4])}, "no valid shape"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}, "no valid data_offsets"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, "no valid data_offsets"),
        ({"a": entry(0, 16, [5])}, r"gives 16 bytes; F32 \[5\] needs 20"),
        ({"a": entry(0, 16, [2**62, 2**62])}, "gives 16 bytes"),
        ({"a": entry(16, 0, [4])}, "gives -16 bytes"),
        ({"a": entry(0, 16), "b": entry(8, 16)}, "overlaps the one before"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, "leaves a gap before it"),
        ({"a": entry(4, 16)}, "leaves a gap before it"),
        ({"a": entry(0, 12)}, "damaged or cut short"),
        ({"a": entry(0, 20)}, "damaged or cut short"),
    ],
)
def test_headers_that_lie_are_refused(header: object, message: str, tmp_path: Path) -> None:
    path = write_header(tmp_path / "lie.safetensors", header)
    with pytest.raises(CheckpointError, match=message):
        open_safetensors(path)


def test_lengths_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    for content, message in (
        (b"", "is empty"),
        (b"1234567", "7 bytes hold no safetensors header"),
        ((HEADER_LIMIT + 1).to_bytes(8, "little") + bytes(8), "at most 100000000 are accepted"),
        ((2**64 - 1).to_bytes(8, "little") + bytes(8), "at most 100000000 are accepted"),
        ((100).to_bytes(8, "little") + b"{}", "its header needs 108 bytes, the file has 10"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            open_safetensors(path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_opens_or_is_a_clear_error(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    if not path.exists():
        random = np.random.default_rng(4)
        save_file(
            {name: random.standard_normal((3, 5)).astype(np.float16) for name in "abc"},
            path,
            metadata={"format": "pt"},
        )
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 7 + header))] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content[: data.draw(st.integers(len(content) - 4, len(content)))])
    with contextlib.suppress(CheckpointError):
        _, tensors = open_safetensors(broken)
        for tensor in tensors.values():
            tensor.read()
