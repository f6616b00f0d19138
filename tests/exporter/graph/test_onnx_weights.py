"""The weights file: every byte where the graph says, aligned, and read back by onnx itself."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from edgewise.exporter.graph.onnx_weights import PAGE, SMALL_ALIGNMENT, WeightFile

RANDOM = np.random.default_rng(7)
TYPES = [np.float32, np.float16, np.uint8, np.int8, np.int64]


def random(shape, dtype):
    if np.issubdtype(dtype, np.floating):
        return RANDOM.normal(0, 1, shape).astype(dtype)
    return RANDOM.integers(0, 100, shape).astype(dtype)


def read_back(proto: TensorProto, folder) -> np.ndarray:
    copy = TensorProto()
    copy.CopyFrom(proto)
    load_external_data_for_tensor(copy, str(folder))
    return numpy_helper.to_array(copy)


def place(proto: TensorProto) -> tuple[int, int]:
    entry = {item.key: item.value for item in proto.external_data}
    assert entry["location"] == "w.data"
    return int(entry["offset"]), int(entry["length"])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 4), (64, 64), ()])
def test_an_array_comes_back_as_it_was(tmp_path, shape, dtype):
    array = random(shape, dtype)
    with WeightFile(tmp_path / "w.data") as weights:
        proto, stored = weights.add("a", array)
    assert np.array_equal(read_back(proto, tmp_path), array)
    assert (stored.offset, stored.nbytes) == place(proto) == (0, array.nbytes)


def test_an_array_that_is_no_contiguous_memory_comes_back_as_it_was(tmp_path):
    array = random((30, 20), np.float32)
    with WeightFile(tmp_path / "w.data") as weights:
        transposed, _ = weights.add("t", array.T)
        strided, _ = weights.add("s", array[::3, 1::2])
    assert np.array_equal(read_back(transposed, tmp_path), array.T)
    assert np.array_equal(read_back(strided, tmp_path), array[::3, 1::2])


@given(st.lists(st.integers(1, 3 * PAGE), min_size=1, max_size=12))
def test_tensors_are_aligned_apart_and_whole(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("weights")
    arrays = [random(size, np.uint8) for size in sizes]
    with WeightFile(folder / "w.data") as weights:
        protos = [weights.add(str(index), array)[0] for index, array in enumerate(arrays)]
        assert weights.nbytes == sum(place(protos[-1]))
    end = 0
    for proto, array in zip(protos, arrays, strict=True):
        offset, length = place(proto)
        assert offset % (PAGE if length >= PAGE else SMALL_ALIGNMENT) == 0
        assert offset >= end
        end = offset + length
        assert np.array_equal(read_back(proto, folder), array)
    assert (folder / "w.data").stat().st_size == end


@pytest.mark.parametrize("cuts", [[10], [3, 3, 4], [1] * 10, [0, 10, 0]])
def test_pieces_make_up_the_array(tmp_path, cuts):
    array = random((10, 6), np.float32)
    pieces = np.split(array, np.cumsum(cuts)[:-1])
    with WeightFile(tmp_path / "w.data") as weights:
        weights.add("before", random((5,), np.uint8))
        plain, _ = weights.add_chunks("plain", pieces, (10, 6), np.dtype(np.float16))
        turned, _ = weights.add_transposed("turned", pieces, (6, 10), np.dtype(np.float32))
    assert np.array_equal(read_back(plain, tmp_path), array.astype(np.float16))
    assert np.array_equal(read_back(turned, tmp_path), array.T)


@pytest.mark.parametrize("rows", [9, 11])
def test_pieces_that_are_too_few_or_too_many_are_refused(tmp_path, rows):
    pieces = [random((rows, 6), np.float32)]
    with WeightFile(tmp_path / "w.data") as weights:
        with pytest.raises(ValueError, match=r"'plain' do not make up shape \(10, 6\)"):
            weights.add_chunks("plain", pieces, (10, 6), np.dtype(np.float32))
        with pytest.raises(ValueError, match=r"'turned' do not make up shape \(6, 10\)"):
            weights.add_transposed("turned", pieces, (6, 10), np.dtype(np.float32))


def test_pieces_are_taken_one_at_a_time(tmp_path):
    """A generator that sees the file grow: what was yielded is on the disk before the next."""
    path = tmp_path / "w.data"

    def pieces():
        for index in range(4):
            yield np.full((1000, 64), index, np.float32)
            if index:
                weights._stream.flush()
                content = np.fromfile(path, np.float32, offset=(index - 1) * 256_000, count=64_000)
                assert (content == index - 1).all()

    with WeightFile(path) as weights:
        weights.add_chunks("a", pieces(), (4000, 64), np.dtype(np.float32))


def test_a_view_reads_the_same_bytes_as_another_matrix(tmp_path):
    array = random((6, 4, 16), np.uint8)
    with WeightFile(tmp_path / "w.data") as weights:
        first, stored = weights.add("blocks", array)
        size = weights.nbytes
        second = weights.view("rows", stored, (6, 64), TensorProto.UINT8)
        assert weights.nbytes == size
    assert place(first) == place(second)
    assert np.array_equal(read_back(second, tmp_path), array.reshape(6, 64))


def test_writing_goes_on_behind_a_transposed_matrix(tmp_path):
    """The memory map and the stream write to one file."""
    before, matrix, after = (random(shape, np.float32) for shape in ((7,), (5, 9), (11,)))
    with WeightFile(tmp_path / "w.data") as weights:
        protos = [
            weights.add("before", before)[0],
            weights.add_transposed("matrix", [matrix], (9, 5), np.dtype(np.float32))[0],
            weights.add("after", after)[0],
        ]
    read = [read_back(proto, tmp_path) for proto in protos]
    for actual, expected in zip(read, (before, matrix.T, after), strict=True):
        assert np.array_equal(actual, expected)


def test_onnx_itself_finds_the_model_sound(tmp_path):
    array = random((4, 6), np.float32)
    with WeightFile(tmp_path / "w.data") as weights:
        proto, _ = weights.add("w", array)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])],
        [proto],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


def test_a_name_is_written_once(tmp_path):
    """Several graphs over one file share what they have in common."""
    matrix = np.arange(32, dtype=np.float32).reshape(4, 8)
    with WeightFile(tmp_path / "w") as weights:
        _, first = weights.add("a", matrix)
        end = weights.nbytes
        again = [
            weights.add("a", matrix)[1],
            weights.add_chunks("a", iter(()), (4, 8), matrix.dtype)[1],
            weights.add_transposed("a", iter(()), (8, 4), matrix.dtype)[1],
        ]
        assert again == [first] * 3
        assert weights.nbytes == end
        with pytest.raises(ValueError, match="'a' is written with 128 bytes, not 64"):
            weights.add("a", matrix[:2])
