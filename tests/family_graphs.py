"""Tiny encoders and encoder-decoders built as ONNX and TFLite graphs, and run.

Both kinds of runner give the same: `encode` returns a name's array for each output over padded
rows [B, T, ...], `cross` included; `decode` runs new tokens behind a cache that the runner keeps
and returns the last token's logits [B, V].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from tiny_families import TinyEncoder, TinyFamilyModel

from edgewise.exporter.graph.onnx_builder import OnnxBuilder
from edgewise.exporter.graph.onnx_encoder import OnnxEncoderBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.tflite_builder import Signature, TfliteBuilder
from edgewise.exporter.graph.tflite_encoder import TfliteEncoderBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.quantize.recipes import Recipe

CONTEXT = 64  # tokens of the decoder
ENCODER_LENGTHS = (16, 32)
DECODER_GRAPHS = (Signature(1, 8), Signature(1, CONTEXT), Signature(8, 0), Signature(8, CONTEXT))
RUNTIMES = ("onnx", "tflite")


def open_runner(runtime: str, model: TinyFamilyModel, folder: Path, recipe: str = "fp32") -> Any:
    folder.mkdir(exist_ok=True)
    return {"onnx": OnnxRunner, "tflite": TfliteRunner}[runtime](model, folder, recipe)


class OnnxRunner:
    """Two graphs over two weight files."""

    def __init__(self, model: TinyFamilyModel, folder: Path, recipe: str) -> None:
        self._model = model
        self._folder = folder
        parsed = Recipe.parse(recipe)
        with WeightFile(folder / "encoder.data") as weights:
            encoder = OnnxEncoderBuilder(weights, parsed)
            describe_encoder(model, encoder)
            self._encoder = self._session("encoder", encoder)
        if not isinstance(model, TinyEncoder):
            with WeightFile(folder / "decoder.data") as weights:
                decoder = OnnxBuilder(weights, parsed, CONTEXT)
                model.decode(decoder)
                self._decoder = self._session("decoder", decoder)
        self.restart()

    def restart(self) -> None:
        c = self._model.configuration
        self._lengths = np.zeros(2, np.int64)
        layers = getattr(c, "decoder_layers", 0)
        empty = np.zeros((2, c.heads, CONTEXT, c.head_size), np.float32)
        self._cache = {
            f"past_key_values.{layer}.{part}": empty.copy()
            for layer in range(layers)
            for part in ("key", "value")
        }

    def encode(self, ids, mask, types=None):
        feeds = {"input_ids": ids, "attention_mask": mask}
        if types is not None:
            feeds["token_type_ids"] = types
        names = [item.name for item in self._encoder.get_outputs()]
        return dict(zip(names, self._encoder.run(None, feeds), strict=True))

    def decode(self, ids, counts, encoded, encoder_mask):
        """Run rows of ids [B, T], right-padded behind ``counts`` real ones each.

        As the runtime's back end does: chunks behind a past go row by row.
        """
        if ids.shape[1] == 1 or not self._lengths.any():
            return self._run_rows(slice(None), ids, counts, encoded, encoder_mask)
        return np.concatenate(
            [
                self._run_rows(
                    slice(row, row + 1), ids[row : row + 1, :count], count, encoded, encoder_mask
                )
                for row, count in enumerate(counts)
            ]
        )

    def _run_rows(self, rows, ids, counts, encoded, encoder_mask):
        totals = self._lengths[rows] + counts
        binding = self._decoder.io_binding()
        feeds = {
            "input_ids": ids,
            "attention_mask": (np.arange(totals.max()) < totals[:, None]).astype(np.int64),
            "encoder_attention_mask": encoder_mask[rows],
            **{name: array[rows] for name, array in encoded.items() if name.startswith("cross")},
        }
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, array in self._cache.items():  # in place, as the runtime does it
            place = array[rows]
            pointer = place.ctypes.data
            present = name.replace("past_key_values", "present")
            binding.bind_input(name, "cpu", 0, np.float32, place.shape, pointer)
            binding.bind_output(present, "cpu", 0, np.float32, place.shape, pointer)
        logits = np.empty((len(ids), 1, self._model.configuration.vocabulary_size), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._decoder.run_with_iobinding(binding)
        self._lengths[rows] = totals
        return logits[:, 0]

    def _session(self, name: str, builder: Any) -> Any:
        path = self._folder / f"{name}.onnx"
        path.write_bytes(builder.finish("test").SerializeToString())
        return onnxruntime.InferenceSession(str(path))


class TfliteRunner:
    """One file with a graph for each length of either side; rows are run one by one."""

    def __init__(self, model: TinyFamilyModel, folder: Path, recipe: str) -> None:
        self._model = model
        file = TfliteFile()
        weights = WeightStore(file, Recipe.parse(recipe))
        for length in ENCODER_LENGTHS:
            encoder = TfliteEncoderBuilder(file, weights, length)
            describe_encoder(model, encoder)
            encoder.finish()
        if not isinstance(model, TinyEncoder):
            for signature in DECODER_GRAPHS:
                decoder = TfliteBuilder(
                    file, weights, signature, CONTEXT, encoder_tokens=ENCODER_LENGTHS[-1]
                )
                model.decode(decoder)
                decoder.finish()
        self.path = folder / "model.tflite"
        file.write(self.path)
        self._interpreter = Interpreter(str(self.path), num_threads=1)
        self.restart()

    def restart(self) -> None:
        c = self._model.configuration
        self._lengths = [0, 0]
        shape = (1, c.heads, CONTEXT, c.head_size)
        self._cache = [
            {
                f"{part}_cache.{layer}": np.zeros(shape, np.float32)
                for layer in range(getattr(c, "decoder_layers", 0))
                for part in ("key", "value")
            }
            for _ in range(2)
        ]

    def encode(self, ids, mask, types=None):
        rows = []
        for row in range(len(ids)):
            count = int(mask[row].sum())
            length = next(length for length in ENCODER_LENGTHS if length >= count)
            if hasattr(self._model, "targets"):
                length = ENCODER_LENGTHS[-1]  # what the decoder's graphs were made for
            feeds = {
                "token_ids": fitted(ids[row, :count], length),
                "token_count": np.asarray([count], np.int32),
            }
            if types is not None:
                feeds["token_types"] = fitted(types[row, :count], length)
            rows.append(self._run(f"encode_{length}", feeds))
        longest = ids.shape[1]
        results = {}
        for name in rows[0]:
            if name.startswith("cross"):
                results[name] = np.concatenate([row[name] for row in rows])
            else:
                results[name] = np.stack([fitted_rows(row[name], longest) for row in rows])
        return results

    def decode(self, ids, counts, encoded, encoder_mask):
        logits = []
        for row, count in enumerate(counts):
            new, past = ids[row, :count], self._lengths[row]
            graph = next(
                graph for graph in DECODER_GRAPHS if graph.tokens >= count and graph.cache >= past
            )
            cache = self._cache[row]
            feeds = {
                "token_ids": fitted(new, graph.tokens),
                "positions": np.arange(past, past + graph.tokens, dtype=np.int32),
                "last_token": np.asarray([count - 1], np.int32),
                "encoder_tokens": np.asarray([encoder_mask[row].sum()], np.int32),
                **{name: array[:, :, : graph.cache] for name, array in cache.items()},
                **{n: a[row : row + 1] for n, a in encoded.items() if n.startswith("cross")},
            }
            results = self._run(graph.name, feeds)
            for name, array in cache.items():
                added = results[f"new_{name.replace('_cache', '')}"]
                array[:, :, past : past + count] = added[:, :, :count]
            self._lengths[row] += int(count)
            logits.append(results["logits"][0])
        return np.stack(logits)

    def _run(self, graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
        runner = self._interpreter.get_signature_runner(graph)
        taken = runner.get_input_details()
        return runner(**{name: array for name, array in feeds.items() if name in taken})


def describe_encoder(model: Any, builder: Any) -> None:
    (model.forward if isinstance(model, TinyEncoder) else model.encode)(builder)


def fitted(ids, length: int):
    """Pad by an id that is not 0, which must not matter."""
    return np.concatenate([ids, np.full(length - len(ids), 1)]).astype(np.int32)


def fitted_rows(array, length: int):
    """Cut [T, N] to the batch's length; one row stays one."""
    if len(array) == 1:
        return array
    short = max(length - len(array), 0)
    return np.pad(array, ((0, short), (0, 0)))[:length]
