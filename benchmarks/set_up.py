"""Peers of a comparison, each installed into an environment of its own.

Rules: releases have a lower bound, so that a comparison is with what a user gets today, and the
environment's list of packages says which it was. Nothing is installed unless it is asked for.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES: Mapping[str, Sequence[str]] = {
    "genai": ("onnxruntime-genai>=0.18", "numpy>=1.26"),
    "openvino": ("openvino-genai>=2026.4", "numpy>=1.26"),
    "llama_cpp": ("cmake>=3.28", "ninja>=1.11"),
}
LLAMA_CPP_SOURCE = "llama-cpp-python>=0.3.36"  # its source archive carries llama.cpp whole
LLAMA_CPP_PROGRAMS = ("llama-bench", "llama-server", "llama-quantize", "llama-perplexity")
LLAMA_CPP_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)


def set_up(kind: str, folder: Path) -> str:
    """Install a peer.

    Args:
        kind: A key of `PACKAGES`.
        folder: For the environment; it may exist from an earlier time.

    Returns:
        What to tell the user: how to name it in a comparison.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--upgrade", *PACKAGES[kind]])
    if kind != "llama_cpp":
        return f"--engine {kind}={kind}:MODEL@{python}"
    return f"--llama-cpp {_build_llama_cpp(python, folder)} --engine llama.cpp=llama_cpp:MODEL"


def _build_llama_cpp(python: Path, folder: Path) -> Path:
    """Build the programs and return their folder; it takes a quarter of an hour of CPU time."""
    unpacked = folder / "source" / "unpacked"
    if not unpacked.exists():
        download = [str(python), "-m", "pip", "download", "--no-deps"]
        from_source = ["--no-binary", "llama-cpp-python", "--dest", str(unpacked.parent)]
        _run([*download, *from_source, LLAMA_CPP_SOURCE])
        with tarfile.open(_only(unpacked.parent, "*.tar.gz")) as archive:
            archive.extractall(unpacked, filter="data")
    source = _only(unpacked, "*/vendor/llama.cpp")
    build = folder / "build"
    cmake = str(python.parent / "cmake")
    ninja = f"-DCMAKE_MAKE_PROGRAM={python.parent / 'ninja'}"
    tools = ["-G", "Ninja", ninja]
    _run([cmake, "-S", str(source), "-B", str(build), *tools, *LLAMA_CPP_OPTIONS])
    _run([cmake, "--build", str(build), "--target", *LLAMA_CPP_PROGRAMS])
    return build / "bin"


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(
            f"{folder} has {len(found)} of {pattern}, not one: remove the folder and begin anew"
        )
    return found[0]


def _run(command: Sequence[str]) -> None:
    print(" ".join(command), file=sys.stderr)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(f"{command[0]} ended with exit code {code}; see above")
