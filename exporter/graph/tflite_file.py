"""A .tflite file written as its weights stream by: a flatbuffer, then the arrays it points to.

Workflow: while graphs are described, every array is registered with its size and a function that
will write it; `write` then packs the flatbuffer once to learn its length, streams the arrays behind
it, and packs it again over the first, for quantizing has filled in the scales meanwhile. Format:
tensorflow/lite/schema/schema.fbs; ``Buffer.offset`` counts from the beginning of the file, so files
beyond the 2 GB of a flatbuffer are no special case.

Rules: every array begins at a multiple of 64 bytes; an array is registered once by its name, and
what several graphs use they share; nothing is kept in memory once written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes; a cache line, and what XNNPACK asks of static tensors
FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
LARGEST_CODE_BEFORE_VERSION_3A = 127  # the old one-byte field holds no more

Write = Callable[[BinaryIO], None]


@dataclass
class StoredArray:
    """An array behind the flatbuffer."""

    buffer: int  # index among the model's buffers
    nbytes: int
    write: Write
    offset: int = 1  # from the beginning of the file; set when the flatbuffer's length is known


class SharedQuantization(schema.QuantizationParametersT):  # type: ignore[misc]  # generated, untyped
    """Quantization parameters of a tensor that several graphs have: packed once, pointed to often.

    A vocabulary's scales would otherwise stand in the file once a graph.
    """

    def __init__(self, scales: NDArray[np.float32]) -> None:
        """Begin with the array that quantizing will fill in; symmetric, along axis 0."""
        super().__init__(scale=scales, zeroPoint=np.zeros(len(scales), np.int64))
        self._packed: tuple[flatbuffers.Builder, int] | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the generated class's name
        """Write once for each builder."""
        if self._packed is None or self._packed[0] is not builder:
            self._packed = (builder, super().Pack(builder))
        return self._packed[1]


class TfliteFile:
    """A model under construction: arrays, operator codes, graphs and their signatures."""

    def __init__(self) -> None:
        """Begin without anything."""
        self._arrays: dict[str, StoredArray] = {}
        self._operator_codes: dict[tuple[int, int], int] = {}
        self._subgraphs: list[schema.SubGraphT] = []
        self._signatures: list[schema.SignatureDefT] = []
        self._metadata: dict[str, str] = {}

    def has_array(self, name: str) -> bool:
        """Tell whether an array of this name is registered."""
        return name in self._arrays

    def add_array(self, name: str, nbytes: int, write: Write) -> int:
        """Register an array once and return its buffer's index.

        Args:
            name: What it is known by; an array of this name that is there already is taken.
            nbytes: How much ``write`` will write, exactly.
            write: Called once, when its turn has come, with the file at the right place.
        """
        if name not in self._arrays:
            self._arrays[name] = StoredArray(len(self._arrays) + 1, nbytes, write)
        return self._arrays[name].buffer

    def buffer_of(self, name: str) -> int:
        """Return the index of a registered array's buffer."""
        return self._arrays[name].buffer

    def operator_code(self, operator: int, version: int) -> int:
        """Return the index of an operator of this version."""
        key = (operator, version)
        return self._operator_codes.setdefault(key, len(self._operator_codes))

    def add_graph(
        self,
        signature: str,
        graph: schema.SubGraphT,
        inputs: Iterable[tuple[str, int]],
        outputs: Iterable[tuple[str, int]],
    ) -> None:
        """Add a graph under a signature's name.

        Args:
            signature: How a runtime calls it.
            graph: The finished graph.
            inputs: Names and tensor indices.
            outputs: Names and tensor indices.
        """
        self._signatures.append(
            schema.SignatureDefT(
                inputs=[schema.TensorMapT(name, index) for name, index in inputs],
                outputs=[schema.TensorMapT(name, index) for name, index in outputs],
                signatureKey=signature,
                subgraphIndex=len(self._subgraphs),
            )
        )
        self._subgraphs.append(graph)

    def add_metadata(self, name: str, text: str) -> None:
        """Add a text that runtimes ignore and people can read."""
        content = text.encode()
        self.add_array(f"metadata/{name}", len(content), lambda stream: _write_all(stream, content))
        self._metadata[name] = f"metadata/{name}"

    def write(self, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the file.

        Args:
            path: Where; what is there is replaced.
            progress: Told how many arrays are written, of how many.

        Raises:
            QuantizeError: A weight can not be stored in its format.
        """
        header_length = len(self._pack())
        end = header_length
        for array in self._arrays.values():
            array.offset = _aligned(end)
            end = array.offset + array.nbytes
        with path.open("wb") as stream:
            for done, (name, array) in enumerate(self._arrays.items(), 1):
                stream.seek(array.offset)
                array.write(stream)
                if stream.tell() != array.offset + array.nbytes:
                    raise ValueError(
                        f"{name!r} is {stream.tell() - array.offset} bytes, not {array.nbytes}"
                    )
                if progress is not None:
                    progress(done, len(self._arrays))
            stream.truncate(end)
            header = self._pack()
            if len(header) != header_length:
                raise ValueError("the flatbuffer changed its length while arrays were written")
            stream.seek(0)
            stream.write(header)

    def _pack(self) -> bytearray:
        codes = [
            schema.OperatorCodeT(
                deprecatedBuiltinCode=min(operator, LARGEST_CODE_BEFORE_VERSION_3A),
                builtinCode=operator,
                version=version,
            )
            for operator, version in self._operator_codes
        ]
        buffers = [schema.BufferT()]  # the first is for tensors without content
        buffers += [
            schema.BufferT(offset=array.offset, size=array.nbytes)
            for array in self._arrays.values()
        ]
        model = schema.ModelT(
            version=SCHEMA_VERSION,
            description="edgewise",
            operatorCodes=codes,
            subgraphs=self._subgraphs,
            buffers=buffers,
            metadata=[
                schema.MetadataT(name=name, buffer=self._arrays[array].buffer)
                for name, array in self._metadata.items()
            ],
            signatureDefs=self._signatures,
        )
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        packed: bytearray = builder.Output()
        return packed


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _write_all(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
