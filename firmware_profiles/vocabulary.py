"""The words a profile may use, each with the fact that makes it mean something.

Rules: a word that is not here is refused by its reader with the nearest one that is. Nothing here
is about one board; boards are the TOML files beside this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import MappingProxyType

RUNTIMES = ("onnx", "tflite")
ROLES = ("embedding", "attention", "mlp", "head")
# A lookup multiplies nothing: only these roles meet quantized activations.
MULTIPLIED_ROLES = ("attention", "mlp", "head")
ACTIVATIONS = ("float32", "int8")
CACHE_DTYPE_BYTES = MappingProxyType({"float32": 4, "float16": 2, "int8": 1})  # bytes an element
OS_FAMILIES = ("linux", "android", "macos")

# The instruction set each ISA feature belongs to. The names are the architectures' own; the
# kernel's spellings in /proc/cpuinfo (asimd, asimddp) are mapped to them in cpuinfo.py.
FEATURE_ISA = MappingProxyType(
    {
        "neon": "aarch64",
        "dotprod": "aarch64",
        "i8mm": "aarch64",
        "sve": "aarch64",
        "avx2": "x86_64",
        "avx512_vnni": "x86_64",
    }
)
# What a feature never comes without. i8mm belongs to Armv8.6, where dotprod (Armv8.4) is mandatory.
FEATURE_NEEDS = MappingProxyType(
    {"dotprod": "neon", "i8mm": "dotprod", "sve": "neon", "avx512_vnni": "avx2"}
)
# With one of these, MatMulNBits multiplies packed weights by int8 activations. Without, it falls
# back to fp32 and says nothing: a Cortex-A72 ran 9 times the instructions of a Cortex-A76.
INTEGER_DOT_FEATURES = frozenset({"dotprod", "i8mm", "avx2", "avx512_vnni"})

# What a userland's programs run on. A 32-bit Raspberry Pi OS runs on a 64-bit core.
USERLAND_ISA = MappingProxyType({"aarch64": "aarch64", "armv7l": "aarch64", "x86_64": "x86_64"})
ISAS = ("aarch64", "x86_64")

# Execution providers (onnx) and delegates (tflite) in use here, with the accelerator each needs.
PROVIDER_ACCELERATOR = MappingProxyType(
    {
        "onnx": MappingProxyType({"CPUExecutionProvider": "none", "CUDAExecutionProvider": "cuda"}),
        "tflite": MappingProxyType({"xnnpack": "none", "gpu": "opencl"}),
    }
)
# The provider that every machine has. It stands last: what no other takes must run somewhere.
LAST_PROVIDER = MappingProxyType({"onnx": "CPUExecutionProvider", "tflite": "xnnpack"})
ACCELERATOR_KINDS = ("none", "cuda", "opencl")


def nearest(word: str, accepted: Iterable[str]) -> str:
    """Return " (did you mean X?)" for the accepted word most like ``word``, or nothing."""
    matches = difflib.get_close_matches(word, list(accepted), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def unknown(what: str, word: str, accepted: Iterable[str]) -> str:
    """Say that ``word`` is none of the accepted ones, which they are and which is nearest."""
    words = list(accepted)
    listed = ", ".join(words)
    return f"{what} {word!r} is unknown{nearest(word, words)}; accepted are {listed}"
