"""Profiles that contradict themselves are refused, whoever wrote them."""

from collections.abc import Callable
from typing import Any

import pytest

from edgewise.firmware_profiles import Profile, ProfileError

Content = dict[str, Any]
Parse = Callable[[Content], Profile]


def setting(*path: str, to: object) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        table = content
        for part in path[:-1]:
            table = table[part]
        table[path[-1]] = to

    return change


def both(*changes: Callable[[Content], None]) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for one in changes:
            one(content)

    return change


ONNX = ("runtimes", "onnx")
TFLITE = ("runtimes", "tflite")
CASES = {
    "int4 blocks with int8 activations and no dotprod": (
        setting("cpu", "features", to=["neon"]),
        r"onnx\.recipe: attention and mlp and head in blocks with int8 activations need one of",
    ),
    "unknown feature": (
        setting("cpu", "features", to=["neon", "dotprd"]),
        r"cpu: feature 'dotprd' is unknown \(did you mean 'dotprod'\?\); accepted are neon",
    ),
    "feature of another architecture": (
        setting("cpu", "features", to=["neon", "dotprod", "avx2"]),
        r"feature 'avx2' belongs to x86_64, not aarch64",
    ),
    "sve without neon": (
        setting("cpu", "features", to=["sve"]),
        r"feature 'sve' exists in no CPU without 'neon'",
    ),
    "i8mm without dotprod": (
        setting("cpu", "features", to=["neon", "i8mm"]),
        r"feature 'i8mm' exists in no CPU without 'dotprod'",
    ),
    "unknown isa": (setting("cpu", "isa", to="arm64"), r"isa 'arm64' is unknown.*aarch64"),
    "no cores": (setting("cpu", "cores", "big", to=0), r"cores: 0 big and 0 little"),
    "negative cores": (setting("cpu", "cores", "little", to=-1), r"4 big and -1 little"),
    "more threads than cores": (setting("threads", to=5), r"threads 5 is not within 1 to 4 cores"),
    "no slots": (setting("slots", to=0), r"slots 0 is not within 1 to 64"),
    "too many slots": (setting("slots", to=65), r"slots 65 is not within 1 to 64"),
    "no threads": (setting("threads", to=0), r"threads 0 is not within 1 to 4 cores"),
    "more usable than RAM": (
        setting("memory", "variants", "16gb", "usable_bytes", to=17_179_869_185),
        r"usable_bytes 17179869185 exceeds ram_bytes 17179869184",
    ),
    "nothing usable": (
        setting("memory", "variants", "2gb", "usable_bytes", to=0),
        r"usable_bytes 0 is not positive",
    ),
    "a variant that is not its name": (
        setting("memory", "variants", "8gb", "ram_bytes", to=8_000_000_000),
        r"memory: ram_bytes 8000000000 is not 8gb",
    ),
    "a variant without a size for a name": (
        setting("memory", "variants", "big", to={"ram_bytes": 1 << 35, "usable_bytes": 1 << 34}),
        r"the name must be a size as '512mb' or '8gb'",
    ),
    "variants out of order": (
        setting("memory", "variants", "1gb", to={"ram_bytes": 1 << 30, "usable_bytes": 1 << 29}),
        r"must stand in ascending order",
    ),
    "larger variant with less usable": (
        setting("memory", "variants", "16gb", "usable_bytes", to=7_000_000_000),
        r"a larger variant has less usable_bytes",
    ),
    "no variants": (setting("memory", "variants", to={}), r"variants is empty"),
    "default variant that is not there": (
        setting("memory", "variant", to="32gb"),
        r"variant '32gb' is unknown.*2gb, 4gb, 8gb, 16gb",
    ),
    "no bandwidth": (
        setting("memory", "bandwidth_bytes_per_second", to=0),
        r"bandwidth_bytes_per_second must be positive",
    ),
    "bandwidth from nowhere": (
        setting("memory", "bandwidth_source", to=" "),
        r"bandwidth_source is empty",
    ),
    "unknown accelerator": (
        setting("accelerator", to={"kind": "cdua", "name": "x"}),
        r"accelerator: kind 'cdua' is unknown \(did you mean 'cuda'\?\)",
    ),
    "nameless accelerator": (
        setting("accelerator", "kind", to="cuda"),
        r"kind 'cuda' contradicts name ''",
    ),
    "provider without accelerator": (
        setting(*ONNX, "execution_providers", to=["CUDAExecutionProvider", "CPUExecutionProvider"]),
        r"CUDAExecutionProvider needs a cuda accelerator, the board's kind is 'none'",
    ),
    "delegate of the other runtime": (
        setting(*TFLITE, "execution_providers", to=["CPUExecutionProvider"]),
        r"execution provider 'CPUExecutionProvider' is unknown; accepted are xnnpack, gpu",
    ),
    "CPU not last": (
        both(
            setting("accelerator", to={"kind": "cuda", "name": "Ampere"}),
            setting(
                *ONNX, "execution_providers", to=["CPUExecutionProvider", "CUDAExecutionProvider"]
            ),
        ),
        r"execution_providers must end with 'CPUExecutionProvider'",
    ),
    "no providers": (
        setting(*ONNX, "execution_providers", to=[]),
        r"execution_providers must end with 'CPUExecutionProvider'",
    ),
    "provider twice": (
        setting(*TFLITE, "execution_providers", to=["xnnpack", "xnnpack"]),
        r"execution_providers names one twice",
    ),
    "unknown system": (
        setting("os", "family", to="windows"),
        r"os: family 'windows' is unknown; accepted are linux, android, macos",
    ),
    "unreadable libc": (setting("os", "libc", to="2.36"), r"libc '2\.36' is neither 'bionic'"),
    "runtime without a table": (
        setting("runtime", to="litert"),
        r"runtime 'litert' has no table \[runtimes\.litert\]; declared are onnx, tflite",
    ),
    "table of an unknown runtime": (
        lambda content: content["runtimes"].update(torch=content["runtimes"]["onnx"]),
        r"runtimes\.torch: runtime 'torch' is unknown; accepted are onnx, tflite",
    ),
    "no runtimes": (setting("runtimes", to={}), r"declared are none"),
    "onnx on a 32-bit userland": (
        setting(*ONNX, "userland", to="armv7l"),
        r"onnxruntime has no wheels for armv7l",
    ),
    "userland of another CPU": (
        setting(*TFLITE, "userland", to="x86_64"),
        r"runtimes\.tflite: userland x86_64 does not run on aarch64",
    ),
    "unknown userland": (
        setting(*TFLITE, "userland", to="arm64"),
        r"userland 'arm64' is unknown",
    ),
    "a Python that is too old": (
        setting(*ONNX, "python", to=["3.9", "3.11"]),
        r"python '3\.9' is not a version of at least 3\.11",
    ),
    "no Python": (setting(*ONNX, "python", to=[]), r"python is empty"),
    "no overhead": (
        setting(*ONNX, "overhead_bytes", to=0),
        r"overhead_bytes must be positive",
    ),
    "overhead beyond what is usable": (
        setting(*ONNX, "overhead_bytes", to=1_610_612_736),
        r"overhead_bytes \(1536 MiB\) and .* \(48 MiB\) exceed what 2gb leaves .* \(1536 MiB\)",
    ),
    "context beyond what is usable": (
        setting("max_context", to=1_000_000),
        r"the smallest cache of max_context 1000000 \(23437 MiB\) exceed what 16gb leaves",
    ),
    "no context": (setting("max_context", to=0), r"max_context 0 is not positive"),
    "unknown cache": (
        setting(*ONNX, "cache_dtype", to="fp16"),
        r"cache_dtype 'fp16' is unknown.*accepted are float32, float16, int8",
    ),
    "float16 cache on tflite": (
        setting(*TFLITE, "cache_dtype", to="float16"),
        r"runtimes\.tflite: cache_dtype 'float16' leaves XNNPACK",
    ),
    "name with capitals": (setting("name", to="Pi 5"), r"name 'Pi 5' must be lower-case"),
    "int8 blocks on tflite": (
        setting(*TFLITE, "recipe", "head", to="int8-block32"),
        r"runtimes\.tflite\.recipe: head: XNNPACK refuses int8-block32",
    ),
    "zero points on tflite": (
        setting(*TFLITE, "recipe", "mlp", to="int4-block32-asymmetric"),
        r"mlp: XNNPACK takes no zero points in blocks",
    ),
    "kept blocks on tflite": (
        setting(*TFLITE, "recipe", "embedding", to="keep"),
        r"embedding: tflite has no operator that keeps GGUF blocks",
    ),
    "int4 on 32-bit tflite": (
        both(
            setting(*TFLITE, "userland", to="armv7l"),
            setting(*TFLITE, "recipe", "mlp", to="int4-block32"),
        ),
        r"mlp: 32-bit tflite-runtime 2\.14 has no int4",
    ),
    "unknown format": (
        setting(*ONNX, "recipe", "mlp", to="int4-block16"),
        r"runtimes\.onnx: mlp 'int4-block16' is unknown \(did you mean 'int4-block\d+'\?\)",
    ),
    "unknown recipe": (
        setting(*ONNX, "recipe", "name", to="q4_0"),
        r"name 'q4_0' is unknown; accepted are fp32, fp16, int8, int4, keep",
    ),
    "unknown activations": (
        setting(*ONNX, "recipe", "activations", to="float16"),
        r"activations 'float16' is unknown \(did you mean 'float32'\?\)",
    ),
    "recipe named after no role": (
        setting(*ONNX, "recipe", "name", to="fp16"),
        r"recipe: name 'fp16' is the format of no role",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_contradictions_are_refused(case: str, content: Content, parse: Parse) -> None:
    change, expected = CASES[case]
    change(content)
    with pytest.raises(ProfileError, match=expected) as caught:
        parse(content)
    assert str(caught.value).startswith("board.toml: ")


def test_contradictions_of_all_parts_are_named_at_once(content: Content, parse: Parse) -> None:
    content["cpu"]["features"] = ["sve"]
    content["memory"]["bandwidth_source"] = ""
    content["os"]["libc"] = "musl"
    content["runtimes"]["onnx"]["python"] = []
    with pytest.raises(ProfileError) as caught:
        parse(content)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "cpu",
        "memory",
        "os",
        "runtimes.onnx",
    ]


def test_blocks_without_dotprod_are_accepted_with_float32_activations(
    content: Content, parse: Parse
) -> None:
    content["cpu"]["features"] = ["neon"]
    content["runtimes"]["onnx"]["recipe"]["activations"] = "float32"
    assert parse(content).recipe.mlp == "int4-block32"
