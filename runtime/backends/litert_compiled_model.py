"""Loads a .tflite as ``CompiledModel`` of ai-edge-litert, and sees its buffers as arrays.

Packed weights lie in a file (litert_cache_file.py) that is made at the first load: they are then
pages of a file instead of memory of the process, once for all graphs.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgewise.common.distributions import installed_version
from edgewise.runtime.backends.litert_cache_file import WeightCacheFile
from edgewise.runtime.backends.litert_feed import Array
from edgewise.runtime.backends.litert_notes import drop_notes, without_notes

# What tells that this release of the library is too old, or another library is installed, or that
# it can not load the model.
LOADING_ERRORS = (ImportError, AttributeError, RuntimeError)


def load_compiled_model(path: Path, threads: int, *, keep_packed: bool) -> Any:
    """Load a model, packing its weights into the cache file if there is none yet.

    Args:
        path: The .tflite file.
        threads: Threads that compute one call.
        keep_packed: Keep packed weights in a file for later loads.

    Returns:
        A ``CompiledModel``.

    Raises:
        LOADING_ERRORS: The library is missing, too old, or can not load the model.
    """
    from ai_edge_litert import compiled_model as library  # noqa: PLC0415  # may be another library

    if not keep_packed:
        return _open(library, path, threads, None)
    cache_file = WeightCacheFile(path, installed_version("ai-edge-litert") or "unknown")
    cached = cache_file.usable()
    if cached is not None:
        return _open(library, path, threads, cached)
    building = cache_file.begin()
    try:
        model = _open(library, path, threads, building)
    except Exception:
        cache_file.abandon(building)
        raise
    if building is not None:
        cache_file.finish(building)
    return model


def _open(library: ModuleType, path: Path, threads: int, cache: Path | None) -> Any:
    cpu = library.CpuOptions(
        num_threads=threads, xnnpack_weight_cache_path="" if cache is None else str(cache)
    )
    options = library.Options(
        hardware_accelerators=library.HardwareAccelerator.CPU, cpu_options=cpu
    )
    with without_notes():
        model = library.CompiledModel.from_file(str(path), options=options)
        # The first question about a buffer makes the library's own environment, which it ends
        # with the process: both write notes.
        name, signature = next(iter(model.get_signature_list().items()))
        model.create_input_buffer_by_name(name, signature["inputs"][0]).get_tensor_details()
    atexit.register(drop_notes)
    return model


def buffer_view(buffer: Any, details: Mapping[str, Any]) -> Array:
    """Return the memory of a host TensorBuffer as an array of the tensor's type and shape.

    The wheel's Python classes only copy; the C interface gives the address, which stays the same
    as long as the buffer lives. The array keeps the buffer alive.
    """
    dtype = np.dtype(details["dtype"])
    shape = tuple(int(size) for size in details["shape"])
    handle = _capsule_pointer(buffer.capsule, b"LiteRtTensorBuffer")
    library = _c_library()
    address = ctypes.c_void_p()
    status = library.LiteRtGetTensorBufferHostMemory(handle, ctypes.byref(address))
    if status or not address.value:
        raise RuntimeError("a tensor buffer of LiteRT has no host memory")
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(address.value)
    memory.owner = buffer
    return np.frombuffer(memory, dtype).reshape(shape)


def _capsule_pointer(capsule: object, name: bytes) -> int:
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype = ctypes.c_void_p
    pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(pointer_of(capsule, name))


def _c_library() -> ctypes.CDLL:
    import ai_edge_litert  # noqa: PLC0415  # may be another library

    folder = Path(str(ai_edge_litert.__file__)).parent
    name = {"darwin": "libLiteRt.dylib", "win32": "libLiteRt.dll"}.get(sys.platform, "libLiteRt.so")
    library = ctypes.CDLL(str(folder / name))
    library.LiteRtGetTensorBufferHostMemory.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    return library
