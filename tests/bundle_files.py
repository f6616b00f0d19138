"""Small helpers on files, for the tests of whole exports."""

from __future__ import annotations

import json
from pathlib import Path

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
