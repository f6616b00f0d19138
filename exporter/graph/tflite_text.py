"""A .tflite model's structure as text, for people and for reviews of changes.

It tells operators with their versions, tensors with shapes, types and quantization, signatures, and
how arrays lie in the file; no weight is read. Two files of one text run the same computations.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgewise.exporter.graph.tflite_file import ALIGNMENT


def describe_tflite(path: Path) -> str:
    """Return the text; one line an operator."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
        model = schema.ModelT.InitFromPackedBuf(bytearray(file[: _header_length(file)]), 0)
        return "\n".join(_Describer(model, file).lines()) + "\n"


def _header_length(file: mmap.mmap) -> int:
    """Return where the first array behind the flatbuffer begins."""
    model = schema.Model.GetRootAs(file, 0)
    offsets = [model.Buffers(index).Offset() for index in range(model.BuffersLength())]
    return min((offset for offset in offsets if offset), default=len(file))


class _Describer:
    def __init__(self, model: Any, file: mmap.mmap) -> None:
        self._model, self._file = model, file
        self._operators = _names(schema.BuiltinOperator)
        self._types = _names(schema.TensorType)

    def lines(self) -> Iterator[str]:
        buffers = [buffer for buffer in self._model.buffers if buffer.size]
        aligned = all(buffer.offset % ALIGNMENT == 0 for buffer in buffers)
        yield f"version {self._model.version}"
        yield f"arrays {len(buffers)}, bytes {sum(buffer.size for buffer in buffers)}"
        yield f"every array at a multiple of {ALIGNMENT}: {'yes' if aligned else 'no'}"
        for code in self._model.operatorCodes:
            yield f"operator {self._operators[code.builtinCode]} version {code.version}"
        for signature in self._model.signatureDefs:
            yield ""
            yield from self._signature(signature)

    def _signature(self, signature: Any) -> Iterator[str]:
        graph = self._model.subgraphs[signature.subgraphIndex]
        yield f"signature {_text(signature.signatureKey)}"
        for kind, entries in (("input", signature.inputs), ("output", signature.outputs)):
            for entry in entries:
                tensor = graph.tensors[entry.tensorIndex]
                yield f"  {kind} {_text(entry.name)}: {self._tensor(graph, tensor)}"
        for tensor in graph.tensors:
            if tensor.quantization is not None:
                yield f"  weight {_text(tensor.name)}: {self._tensor(graph, tensor)}"
        for operator in graph.operators:
            code = self._model.operatorCodes[operator.opcodeIndex]
            inputs = ", ".join(self._operand(graph, index) for index in operator.inputs)
            outputs = ", ".join(
                f"{_text(graph.tensors[index].name)} {_shape(graph.tensors[index])}"
                for index in operator.outputs
            )
            options = _options(operator.builtinOptions)
            yield f"  {self._operators[code.builtinCode]}({inputs}){options} -> {outputs}"

    def _operand(self, graph: Any, index: int) -> str:
        if index < 0:
            return "-"
        tensor = graph.tensors[index]
        name = _text(tensor.name)
        buffer = self._model.buffers[tensor.buffer]
        return f"{name}@{tensor.buffer}" if buffer.size else name

    def _tensor(self, graph: Any, tensor: Any) -> str:
        text = f"{self._types[tensor.type]} {_shape(tensor)}"
        quantization = tensor.quantization
        if quantization is None:
            return text
        if quantization.details is not None:
            scales = graph.tensors[quantization.details.scales]
            return (
                f"{text}, blocks of {quantization.details.blockSize}, "
                f"scales {_text(scales.name)} {self._types[scales.type]} {_shape(scales)}"
            )
        zero = not any(quantization.zeroPoint)
        return (
            f"{text}, {len(quantization.scale)} scales along axis {quantization.quantizedDimension}"
            f"{', symmetric' if zero else ''}"
        )


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _shape(tensor: Any) -> str:
    sizes = () if tensor.shape is None else tensor.shape
    return f"[{', '.join(str(size) for size in sizes)}]"


def _options(options: Any) -> str:
    """Write what differs from zero; shapes are told elsewhere, and one default says nothing."""
    given = {} if options is None else vars(options)
    return "".join(
        f" {name}={value}"
        for name, value in given.items()
        if isinstance(value, bool | int | float) and value and name != "potScaleInt16"
    )
