"""Which class runs the graphs of a bundle: a line for each family and runtime.

Rule: only the module of the engine that is used is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from edgewise.runtime import backends
from edgewise.runtime.bundle import Bundle, Family, Manifest, RuntimeName
from edgewise.runtime.model import ModelError

_ENGINES: Mapping[tuple[Family, RuntimeName], tuple[str, str]] = {
    ("decoder", "onnx"): ("onnx", "OnnxBackend"),
    ("decoder", "tflite"): ("litert", "LitertBackend"),
    ("decoder", "fake"): ("fake", "FakeBackend.open"),
    ("encoder", "onnx"): ("onnx_encoder", "OnnxEncoderBackend.open"),
    ("encoder", "tflite"): ("litert_encoder", "LitertEncoderBackend.open"),
    ("encoder", "fake"): ("fake_encoder", "FakeEncoderBackend.open"),
    ("encoder_decoder", "onnx"): ("onnx_encoder", "OnnxEncoderDecoderBackend"),
    ("encoder_decoder", "tflite"): ("litert_encoder", "LitertEncoderDecoderBackend"),
    ("encoder_decoder", "fake"): ("fake_encoder", "FakeEncoderDecoderBackend.open"),
    ("vision_language", "onnx"): ("onnx_vision_language", "OnnxVisionLanguageBackend"),
    ("vision_language", "tflite"): ("litert_vision_language", "LitertVisionLanguageBackend"),
    ("vision_language", "fake"): ("fake_vision_language", "FakeVisionLanguageBackend.open"),
}


_KEEPING: Mapping[tuple[Family, RuntimeName], tuple[str, str]] = {
    ("decoder", "onnx"): ("onnx", "OnnxBackend.open_packed"),
}
# Of decoders whose graph gives its cache back longer than it took it; ONNX only.
_GROWING: Mapping[Family, tuple[str, str]] = {
    "decoder": ("onnx_growing", "OnnxGrowingBackend"),
    "encoder_decoder": ("onnx_growing_pair", "OnnxGrowingPairBackend"),
}


class EngineFactory(Protocol):
    """Makes the engine of a bundle; what it fulfils in protocol.py follows from the family."""

    def __call__(self, bundle: Bundle, *, threads: int, capacity: int, **more: Any) -> Any:
        """Load the engine.

        Args:
            bundle: The opened bundle.
            threads: Threads that compute one call.
            capacity: Tokens of a sequence; of an encoder-decoder, of its answer.
            more: ``slots``, sequences that are held at once, where the family has a cache; of
                traced graphs, files in place of the bundle's, by their roles.
        """


def engine_factory(manifest: Manifest, *, keep_packed: bool = False) -> EngineFactory:
    """Return the engine that the manifest names.

    Args:
        manifest: Of the bundle.
        keep_packed: Whether an engine that has a choice keeps what it packs for later loads.

    Raises:
        ModelError: The bundle is for another program, or no engine runs its family.
    """
    if manifest.runtime == "litertlm":
        raise ModelError(
            f"the bundle of {manifest.model_id} is for LiteRT-LM: run its .litertlm file with"
            " `litert-lm run`, or export with --format tflite for this runtime"
        )
    found = _ENGINES.get((manifest.family, manifest.runtime))
    if manifest.cache is not None and manifest.cache.update == "concatenated":
        found = _GROWING.get(manifest.family)
    elif keep_packed:
        found = _KEEPING.get((manifest.family, manifest.runtime), found)
    if found is None:
        accepted = [runtime for family, runtime in _ENGINES if family == manifest.family]
        raise ModelError(
            f"no engine runs {manifest.model_id}, a {manifest.family} for {manifest.runtime};"
            f" accepted for this family: {', '.join(accepted) or 'none yet'}"
        )
    return cast("EngineFactory", backends.find(*found))
