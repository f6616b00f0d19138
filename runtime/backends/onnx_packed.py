"""An ONNX graph as onnxruntime has optimized and packed it, kept between loads.

Workflow: `packed_graph` gives the file that was made before, or has it made, once. A load then
neither optimizes the graph nor packs its weights, and packed weights are pages of a file instead of
memory of the process ("session.save_external_prepacked_constant_initializers" of onnxruntime's
session configuration keys).

Rules: the folder's name tells the graph's and the weights' sizes and times, the version of
onnxruntime and the CPU, and a file in it the checksums of the others' ends, so that what is stale,
cut short or of another machine is never used; such folders of the same graph are deleted. Small
models are not worth it, and neither is a disk or a memory that it would fill.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from edgewise.common.files import folder_written_atomically
from edgewise.firmware_profiles.memory_left import memory_left
from edgewise.runtime.cache_folder import bundle_cache_folder, content_key, machine_key, model_key

SUFFIX = ".packed"
GRAPH, WEIGHTS, CHECK = "graph.onnx", "weights.bin", "check.txt"
LEAST_BYTES = 16 << 20  # of weights; less is loaded at once
FREE_SHARE = 4  # times the weights that must be free on the disk; packed ones take up to 2.5 times
MEMORY_SHARE = 4  # times the weights that must be left in memory; packing holds them three times
SETTINGS = {
    "session.optimized_model_external_initializers_file_name": WEIGHTS,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}
"""What a session that makes the file is told, beside its path."""


def packed_graph(
    graph: Path, weights: Path, runtime_version: str, make: Callable[[Path], None]
) -> Path | None:
    """Return the packed graph, making it if there is none yet.

    Args:
        graph: The .onnx file.
        weights: The file of its weights.
        runtime_version: Of onnxruntime.
        make: Writes the graph into a file of the given path, its weights beside it as `SETTINGS`
            say.

    Returns:
        The .onnx file to load, with nothing left to optimize; None: it is not worth it here, or it
        can not be kept.
    """
    size = weights.stat().st_size
    folder = bundle_cache_folder(graph.parent)
    if folder is None or size < LEAST_BYTES:
        return None
    name = model_key(folder, graph)
    states = [path.stat() for path in (graph, weights)]
    of_files = "-".join(f"{state.st_size}-{state.st_mtime_ns}" for state in states)
    place = folder / f"{name}-{of_files}-{machine_key(runtime_version)}{SUFFIX}"
    for other in folder.glob(f"{name}-*{SUFFIX}"):
        if other != place or not _is_whole(other):
            shutil.rmtree(other, ignore_errors=True)
    if place.exists():
        return place / GRAPH
    if shutil.disk_usage(folder).free < FREE_SHARE * size:
        return None
    left = memory_left()
    if left is not None and left < MEMORY_SHARE * size:
        return None
    # A full disk, or another process that was faster, is no reason not to answer.
    with contextlib.suppress(OSError), folder_written_atomically(place) as building:
        make(building / GRAPH)
        (building / CHECK).write_text(_checks(building))
    return place / GRAPH if _is_whole(place) else None


def drop_packed_graph(packed: Path) -> None:
    """Delete what can not be loaded after all."""
    shutil.rmtree(packed.parent, ignore_errors=True)


def _is_whole(place: Path) -> bool:
    try:
        return (place / CHECK).read_text() == _checks(place)
    except (OSError, UnicodeDecodeError):
        return False


def _checks(place: Path) -> str:
    return "".join(f"{name} {content_key(place / name)}\n" for name in (GRAPH, WEIGHTS))
