"""Small helpers on files, for the tests of whole exports."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from edgewise.common.files import sha256_of_file


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def change_json(path: Path, **changes: object) -> None:
    """Change fields of a JSON file; None takes one away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def places_of(graph: onnx.GraphProto) -> set[tuple[int, int]]:
    """Return where in the weights file each tensor begins and ends; shared bytes once."""
    places = set()
    for tensor in graph.initializer:
        if tensor.external_data:
            entry = {item.key: item.value for item in tensor.external_data}
            start = int(entry["offset"])
            places.add((start, start + int(entry["length"])))
    return places
