"""Fetches a checkpoint from the Hugging Face Hub: only the files that are read, at one commit.

Workflow: ask the Hub for the revision's commit and list of files, choose, fetch each file at that
commit, give the folder or GGUF file in the Hub's own cache. Rules: the choice is made before a byte
of weights is fetched, so pickle or a missing tokenizer costs nothing; a broken connection is
resumed where it broke, and files that are whole stay for the next run; what the Hub's client raises
becomes one sentence. The endpoint is HF_ENDPOINT's, as the client has it.
"""

from __future__ import annotations

import importlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgewise.exporter.checkpoint.checkpoint import Progress
from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.huggingface_folder import (
    HOW_TO_CONVERT,
    IMAGE_PROCESSOR,
    INDEX,
    PICKLE_SUFFIXES,
    SINGLE,
    placed_tensors,
    read_json,
)
from edgewise.exporter.checkpoint.huggingface_tokenizer import HOW_TO_MAKE_TOKENIZER
from edgewise.exporter.checkpoint.sentence_pooling import POOLING_FILE
from edgewise.exporter.checkpoint.slow_classes import SLOW_FILE_SETS

DEFAULT_ENDPOINT = "https://huggingface.co"
HUB_ID = re.compile(r"([\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*?)(?:/(.+\.gguf))?")
OPTIONAL_FILES = (
    "generation_config.json",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    IMAGE_PROCESSOR,
    POOLING_FILE,
)


@dataclass(frozen=True)
class Fetched:
    """What was fetched, and what the Hub says of it."""

    path: Path  # the folder of the commit, or a GGUF file in it
    revision: str  # the commit
    license: str | None


def looks_like_hub_id(location: str) -> bool:
    """Tell whether ``location`` has the form ``org/name`` or ``org/name/file.gguf``."""
    return HUB_ID.fullmatch(location) is not None and not location.startswith(".")


def fetch_from_hub(location: str, *, revision: str | None, progress: Progress | None) -> Fetched:
    """Fetch a checkpoint.

    Args:
        location: ``org/name`` or ``org/name/file.gguf``.
        revision: Branch, tag or commit; the main branch if not given.
        progress: Told while files are fetched; silent if not given.

    Raises:
        CheckpointError: The Hub can not be reached, refuses, or has no such checkpoint.
    """
    match = HUB_ID.fullmatch(location)
    if match is None:
        raise CheckpointError(f"{location!r} is no Hub id, such as org/name.")
    repository, gguf_file = match.groups()
    client = _Client(repository, revision, progress)
    if gguf_file is None and not any(name.endswith(".safetensors") for name in client.files):
        gguf_files = [name for name in client.files if name.endswith(".gguf")]
        if len(gguf_files) > 1:
            raise CheckpointError(
                f"{repository} holds several GGUF files; give one of: "
                f"{listed(f'{repository}/{name}' for name in gguf_files)}."
            )
        gguf_file = next(iter(gguf_files), None)
    if gguf_file is None:
        return Fetched(_fetch_folder(client), client.commit, client.license)
    if gguf_file not in client.files:
        others = [f"{repository}/{name}" for name in client.files if name.endswith(".gguf")]
        raise CheckpointError(
            f"{repository} has no file {gguf_file}; its GGUF files are: {listed(others) or 'none'}."
        )
    return Fetched(client.fetch(gguf_file), client.commit, client.license)


def _fetch_folder(client: _Client) -> Path:
    weights = [name for name in client.files if name.endswith(".safetensors") and "/" not in name]
    pickles = [name for name in client.files if name.endswith(PICKLE_SUFFIXES)]
    if not weights:
        raise CheckpointError(
            f"{client.repository} has its weights as pickle only ({listed(pickles)}). "
            f"{HOW_TO_CONVERT}"
            if pickles
            else f"{client.repository} holds no weights: neither safetensors nor GGUF."
        )
    tokenizer = _tokenizer_files(client.files)
    missing = [] if "config.json" in client.files else ["config.json"]
    missing += [] if tokenizer else ["tokenizer.json"]
    if missing:
        advice = "" if tokenizer else f" {HOW_TO_MAKE_TOKENIZER}"
        raise CheckpointError(f"{client.repository} has no {listed(missing)}.{advice}")
    config = client.fetch("config.json")
    for name in (*tokenizer, *OPTIONAL_FILES):
        if name in client.files:
            client.fetch(name)
    if SINGLE in weights:
        client.fetch(SINGLE)
    elif INDEX in client.files:
        index = read_json(client.fetch(INDEX))
        for shard in sorted(set(placed_tensors(index).values())):
            if shard not in client.files:
                raise CheckpointError(f"{client.repository} lacks {shard}, which {INDEX} names.")
            client.fetch(shard)
    elif len(weights) == 1:
        client.fetch(weights[0])
    else:
        raise CheckpointError(
            f"{client.repository} has several safetensors files and no {INDEX}: {listed(weights)}."
        )
    return config.parent


def _tokenizer_files(names: Iterable[str]) -> tuple[str, ...]:
    """Choose tokenizer.json, or what it can be made of; nothing if there is neither."""
    there = frozenset(names)
    choices = (("tokenizer.json",), *SLOW_FILE_SETS)
    return next((files for files in choices if there.issuperset(files)), ())


class _Client:
    """One repository at one commit."""

    def __init__(self, repository: str, revision: str | None, progress: Progress | None) -> None:
        self.repository = repository
        self._revision = revision
        self._progress = progress
        self._hub = _hub_package()
        self._endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")
        try:
            information = self._hub.HfApi(endpoint=self._endpoint).model_info(
                repository, revision=revision
            )
        except Exception as error:
            raise self._explained(error) from error
        self.commit = str(information.sha)
        self.files = sorted(sibling.rfilename for sibling in information.siblings or [])
        self.license = _license_of(information.tags or [])

    def fetch(self, name: str) -> Path:
        """Fetch one file into the Hub's cache, unless it is there whole."""
        try:
            path = self._hub.hf_hub_download(
                self.repository,
                name,
                revision=self.commit,
                endpoint=self._endpoint,
                tqdm_class=_reporting_bar(name, self._progress),
            )
        except Exception as error:
            raise self._explained(error) from error
        return Path(path)

    def _explained(self, error: Exception) -> CheckpointError:
        """Say in one sentence what the Hub's client means."""
        errors = self._hub.errors
        where = f"the Hub at {self._endpoint}"
        if isinstance(error, errors.GatedRepoError):
            return CheckpointError(
                f"{self.repository} is gated: accept its terms at {self._endpoint}/"
                f"{self.repository}, log in with `hf auth login`, then try again."
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return CheckpointError(
                f"There is neither a file or folder {self.repository} here, nor a public model of "
                f"that name on {where}; log in with `hf auth login` if it is private."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return CheckpointError(
                f"{self.repository} has no revision {self._revision!r} on {where}; "
                "give a branch, tag or commit that exists."
            )
        if isinstance(error, errors.HFValidationError):
            return CheckpointError(f"{self.repository!r} is no valid Hub id: org/name is accepted.")
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return CheckpointError(
                f"{self.repository}: {where} answered with HTTP status {status}; try again later."
            )
        return CheckpointError(
            f"There is no file or folder {self.repository} here, and {where} can not be reached "
            f"({_first_line(error)}); connect, or give a local path.{self._cached_hint()}"
        )

    def _cached_hint(self) -> str:
        """Point to copies of an earlier run, which open without the Hub."""
        cache = Path(self._hub.constants.HF_HUB_CACHE)
        name = f"models--{self.repository.replace('/', '--')}"
        copies = [str(path.parent) for path in cache.glob(f"{name}/snapshots/*/config.json")]
        copies += [str(path) for path in cache.glob(f"{name}/snapshots/*/*.gguf")]
        return f" Fetched before: {listed(copies)}." if copies else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _license_of(tags: Iterable[str]) -> str | None:
    prefix = "license:"
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), None)


def _hub_package() -> ModuleType:
    try:
        import huggingface_hub.constants  # noqa: PLC0415 - only a Hub id needs it
        import huggingface_hub.errors  # noqa: PLC0415 - as above
    except ImportError as error:
        raise CheckpointError(
            "Fetching from the Hub needs the package huggingface-hub: "
            "`pip install 'edgewise[export]'`."
        ) from error
    return huggingface_hub


def _reporting_bar(name: str, progress: Progress | None) -> type[Any]:
    """Make the progress bar class that the Hub's client asks for: it draws nothing and reports.

    The client may make a second bar for the same file (what is transferred beside what is
    written); only the first reports.
    """
    bar_class: Any = importlib.import_module("tqdm.std").tqdm  # comes with the Hub's client
    reporting: list[Any] = []

    class ReportingBar(bar_class):  # type: ignore[misc] # a class of an untyped package
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            reporting.append(self)
            settings.pop("name", None)
            settings |= {"file": io.StringIO(), "disable": False, "leave": True}
            super().__init__(*arguments, **settings)

        def display(self, *_: Any, **__: Any) -> None:
            if progress is not None and self is reporting[0]:
                progress(name, int(self.n), int(self.total or 0))

    return ReportingBar
