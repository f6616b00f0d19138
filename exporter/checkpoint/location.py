"""Opens a checkpoint wherever it is: a folder, a GGUF file, an installed package, the Hub."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from edgewise.exporter.checkpoint.checkpoint import Checkpoint, Progress
from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.gguf_file import open_gguf_file
from edgewise.exporter.checkpoint.gguf_header import MAGIC
from edgewise.exporter.checkpoint.hub import fetch_from_hub, looks_like_hub_id
from edgewise.exporter.checkpoint.huggingface_folder import (
    HOW_TO_CONVERT,
    PICKLE_SUFFIXES,
    open_huggingface_folder,
)
from edgewise.exporter.checkpoint.installed_package import PREFIX, find_in_package, package_version

ACCEPTED = (
    "a Hugging Face folder, a .gguf file, package:NAME (a checkpoint inside an installed package) "
    "or a Hub id such as org/name"
)


def open_checkpoint(
    location: str, *, revision: str | None = None, progress: Progress | None = None
) -> Checkpoint:
    """Open a checkpoint.

    Args:
        location: A Hugging Face folder, a GGUF file, ``package:NAME`` or ``package:NAME/PATH``, a
            Hub id ``org/name``, or one GGUF file of the Hub, ``org/name/file.gguf``.
        revision: Branch, tag or commit, for a Hub id only.
        progress: Told while files are fetched.

    Returns:
        The open checkpoint; close it, or use it as a context.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged or of a kind not accepted.
    """
    if not location:
        raise CheckpointError(f"No checkpoint was given; accepted are {ACCEPTED}.")
    if revision is not None and (location.startswith(PREFIX) or Path(location).exists()):
        raise CheckpointError(
            f"{location} is on this machine and has no revisions; revision {revision!r} can only "
            "be chosen of a Hub id such as org/name."
        )
    if location.startswith(PREFIX):
        opened = _open_path(find_in_package(location))
        origin = dataclasses.replace(
            opened.origin, kind="package", name=location, revision=package_version(location)
        )
        return dataclasses.replace(opened, origin=origin)
    path = Path(location).expanduser()
    if path.exists():
        return _open_path(path)
    if not looks_like_hub_id(location):
        raise CheckpointError(f"{location} does not exist; accepted are {ACCEPTED}.")
    fetched = fetch_from_hub(location, revision=revision, progress=progress)
    opened = _open_path(fetched.path)
    origin = dataclasses.replace(
        opened.origin,
        kind="hub",
        name=location,
        revision=fetched.revision,
        license=fetched.license or opened.origin.license,
    )
    return dataclasses.replace(opened, origin=origin)


def _open_path(path: Path) -> Checkpoint:
    if path.is_dir():
        return open_huggingface_folder(path)
    if path.suffix.lower() != ".gguf" and _begins_as_gguf(path):
        raise CheckpointError(f"{path.name} is a GGUF file by another name; end its name in .gguf.")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path.name} is a pickle file. {HOW_TO_CONVERT}")
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path.name} holds weights only; give its folder, with config.json and tokenizer.json."
        )
    if path.suffix.lower() != ".gguf":
        raise CheckpointError(f"{path.name} is no checkpoint; accepted are {ACCEPTED}.")
    return open_gguf_file(path)


def _begins_as_gguf(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC
    return False
