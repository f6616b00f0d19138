"""Beginnings of prompts on the disk: written by `edgewise warm`, found when a bundle is loaded.

Workflow: `save` writes a file in the bundle's cache folder, `saved` lists those of a bundle, and
`read_cache` reads the keys and values of one when a prompt begins with it.

Rules: a file is NumPy's .npz without pickled objects, and its name tells the model (a digest of the
hashes of all files that the numbers depend on) and the tokens, so that a file of another model, or
of the same model exported again, is never used. Sizes are checked before anything is read. The
checksums of the format are compared at each reading.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgewise.common.files import write_atomically
from edgewise.runtime.backends.protocol import Cache
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.cache_folder import (
    FOLDER,
    PREFIX_SUFFIX,
    bundle_cache_folder,
    cached_files,
    users_cache_folder,
)
from edgewise.runtime.manifest import CacheType, decoder_cache
from edgewise.runtime.prefix_store import PrefixError

logger = logging.getLogger(__name__)

TOKENS, CACHE = "tokens", "cache"  # names of arrays
FILES_MAX = 256  # of one bundle
_ROLES = ("graph", "weights", "tokenizer")  # of files that keys and values depend on
_OVERHEAD = 4096  # bytes of a file beside its arrays, at most


@dataclass(frozen=True)
class SavedPrefix:
    """A beginning on the disk."""

    path: Path
    tokens: tuple[int, ...]
    shape: tuple[int, int, int, int]  # of its keys and values
    dtype: CacheType  # of these

    def read_cache(self) -> Cache:
        """Read keys and values.

        Raises:
            PrefixError: The file is gone or damaged.
        """
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                cache: Cache = arrays[CACHE]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise PrefixError(f"{self.path} can not be read and is left out: {error}") from error
        if cache.shape != self.shape or cache.dtype != self.dtype:
            raise PrefixError(
                f"{self.path} has keys and values {cache.dtype} {list(cache.shape)}, not "
                f"{self.dtype} {list(self.shape)}, and is left out"
            )
        return cache


def save(bundle: Bundle, tokens: Sequence[int], cache: Cache) -> SavedPrefix:
    """Write a beginning where loading the bundle will find it.

    Args:
        bundle: The bundle.
        tokens: The beginning's ids.
        cache: Its keys and values.

    Raises:
        PrefixError: There is no folder that can be written, or it holds too many already.
    """
    folder = bundle_cache_folder(bundle.path)
    if folder is None:
        raise PrefixError(
            f"neither {bundle.path / FOLDER} nor {users_cache_folder()} can be written, so nothing "
            "can be kept; make one of them writable"
        )
    ids = np.array(tokens, np.int32)
    digest = hashlib.sha256(ids.tobytes()).hexdigest()[:16]
    path = folder / f"{_model_key(bundle)}-{digest}{PREFIX_SUFFIX}"
    others = {file.path for file in saved(bundle)} - {path}
    if len(others) >= FILES_MAX:
        raise PrefixError(
            f"{folder} holds {len(others)} beginnings of this bundle; delete some {PREFIX_SUFFIX}"
        )
    content = io.BytesIO()
    np.savez(content, tokens=ids, cache=np.ascontiguousarray(cache))
    write_atomically(path, content.getvalue())
    return SavedPrefix(path, tuple(tokens), cache.shape, decoder_cache(bundle.manifest).dtype)


def saved(bundle: Bundle) -> Iterator[SavedPrefix]:
    """Give the beginnings that were saved for a bundle; what is no such file is left out."""
    layout = decoder_cache(bundle.manifest)
    arrays, heads, size = len(layout.past_names), layout.key_value_heads, layout.head_size
    pattern = f"{_model_key(bundle)}-*{PREFIX_SUFFIX}"
    for path in cached_files(bundle.path, pattern)[:FILES_MAX]:
        try:
            tokens = _read_tokens(path, bundle.manifest.context_length)
            bytes_on_disk = path.stat().st_size
        except (PrefixError, OSError) as error:
            logger.warning("%s", error)
            continue
        shape = (arrays, heads, len(tokens), size)
        element = np.dtype(layout.dtype).itemsize
        if bytes_on_disk > element * math.prod(shape) + 4 * len(tokens) + _OVERHEAD:
            logger.warning("%s is larger than its tokens need, and is left out", path)
            continue
        yield SavedPrefix(path, tokens, shape, layout.dtype)


def _read_tokens(path: Path, most: int) -> tuple[int, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(f"{TOKENS}.npy").file_size
        if size > 4 * most + _OVERHEAD:
            raise PrefixError(f"{path} has more than {most} tokens, and is left out")
        with np.load(path, allow_pickle=False) as arrays:
            tokens = arrays[TOKENS]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PrefixError(f"{path} can not be read and is left out: {error}") from error
    if tokens.dtype != np.int32 or tokens.ndim != 1 or not 1 <= len(tokens) <= most:
        raise PrefixError(f"{path} has no list of tokens, and is left out")
    return tuple(tokens.tolist())


def _model_key(bundle: Bundle) -> str:
    manifest = bundle.manifest
    digest = hashlib.sha256(manifest.runtime.encode())
    for file in manifest.files:
        if file.role in _ROLES:
            digest.update(f"{file.role} {file.sha256}\n".encode())
    return digest.hexdigest()[:16]
