"""A board as data: what it is, what it can hold and how a model runs on it.

Workflow: loading.py reads a TOML file into these frozen types; each refuses its own contradictions,
and Profile those between them. Consumers: the exporter takes recipe_for, runtime_choice,
max_context and the memory; the runtime takes threads and execution_providers; the agent takes
slots; the doctor compares a Machine (fitting.py); the command line prints as_dict.

Rules: sizes are bytes, bandwidth is bytes a second. A field that nothing reads has no place here.
A profile describes both runtimes where the board can use both: `for_runtime` gives the whole
profile for the other one.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from edgewise.firmware_profiles.errors import ProfileError, refuse_if_any
from edgewise.firmware_profiles.hardware import Accelerator, Cpu, Memory, OperatingSystem
from edgewise.firmware_profiles.recipe import RecipeChoice, problems_with_recipe
from edgewise.firmware_profiles.vocabulary import (
    CACHE_DTYPE_BYTES,
    LAST_PROVIDER,
    PROVIDER_ACCELERATOR,
    RUNTIMES,
    USERLAND_ISA,
    unknown,
)

MEBIBYTE = 1 << 20  # bytes
# The smallest cache among the models this project serves: LiteLlama-460M, 24 layers x 2 heads x
# 64 x (key and value). A context that does not fit even that is no context.
SMALLEST_CACHE_ELEMENTS = 24 * 2 * 64 * 2  # elements a token
SLOTS_MAX = 64  # answers at once; more is a number mistyped
PYTHON_VERSION = re.compile(r"3\.(1[1-9]|[2-9]\d)")  # this package needs 3.11
PROFILE_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def problems_with_cache_dtype(dtype: str, *, runtime: str) -> list[str]:
    """Say why a runtime can not keep keys and values in a type."""
    if dtype not in CACHE_DTYPE_BYTES:
        return [unknown("cache_dtype", dtype, CACHE_DTYPE_BYTES)]
    if runtime == "tflite" and dtype == "float16":
        return ["cache_dtype 'float16' leaves XNNPACK in tflite; use 'float32' or 'int8'"]
    return []


@dataclass(frozen=True)
class RuntimeChoice:
    """How one runtime is used on the board.

    Attributes:
        name: "onnx" or "tflite".
        userland: What its programs are built for; 32-bit userlands run on 64-bit cores.
        python: Python versions for which wheels of it exist there, as "3.11".
        execution_providers: In order of preference; the last is the CPU's.
        cache_dtype: Type of the elements of a decoder's cache: "float32", "float16" or "int8".
        overhead_bytes: Memory beside weights and cache: interpreter, libraries, activations.
        recipe: How weights are stored for it on this CPU.
    """

    name: str
    userland: str
    python: tuple[str, ...]
    execution_providers: tuple[str, ...]
    cache_dtype: str
    overhead_bytes: int
    recipe: RecipeChoice

    def __post_init__(self) -> None:
        problems = []
        if self.name not in RUNTIMES:
            refuse_if_any("runtimes", [unknown("runtime", self.name, RUNTIMES)])
        if self.userland not in USERLAND_ISA:
            problems.append(unknown("userland", self.userland, USERLAND_ISA))
        if self.name == "onnx" and self.userland == "armv7l":
            problems.append(
                "onnxruntime has no wheels for armv7l; use an aarch64 userland or tflite"
            )
        if not self.python:
            problems.append("python is empty; name the versions that have wheels")
        problems += [
            f"python {version!r} is not a version of at least 3.11, as '3.11'"
            for version in self.python
            if not PYTHON_VERSION.fullmatch(version)
        ]
        known = PROVIDER_ACCELERATOR[self.name]
        problems += [
            unknown("execution provider", provider, known)
            for provider in self.execution_providers
            if provider not in known
        ]
        if len(set(self.execution_providers)) != len(self.execution_providers):
            problems.append("execution_providers names one twice")
        if self.execution_providers[-1:] != (LAST_PROVIDER[self.name],):
            problems.append(f"execution_providers must end with {LAST_PROVIDER[self.name]!r}")
        problems += problems_with_cache_dtype(self.cache_dtype, runtime=self.name)
        if self.overhead_bytes < 1:
            problems.append("overhead_bytes must be positive")
        if not self.recipe.name_is_used:
            problems.append(f"recipe: name {self.recipe.name!r} is the format of no role")
        refuse_if_any(f"runtimes.{self.name}", problems)


@dataclass(frozen=True)
class Profile:
    """One board and how models run on it.

    Attributes:
        name: The profile's name, as "raspberry_pi_5".
        title: The board's name for people.
        board_models: What /proc/device-tree/model (Android: ro.product.model) begins with on it;
            empty for a profile that stands for a whole class of machines.
        cpu: The processor.
        memory: RAM, what of it is usable, bandwidth.
        accelerator: What computes beside the CPU.
        os: The system assumed.
        runtime: The runtime used unless the user names another: "onnx" or "tflite".
        runtimes: How each runtime is used there.
        max_context: Tokens of cache that are budgeted and allocated at most.
        threads: Threads a runtime computes with.
        slots: Answers that an agent computes at once, in the memory of one whole context together.
    """

    name: str
    title: str
    board_models: tuple[str, ...]
    cpu: Cpu
    memory: Memory
    accelerator: Accelerator
    os: OperatingSystem
    runtime: str
    runtimes: tuple[RuntimeChoice, ...]
    max_context: int
    threads: int
    slots: int

    def __post_init__(self) -> None:
        problems = []
        if not PROFILE_NAME.fullmatch(self.name):
            problems.append(
                f"name {self.name!r} must be lower-case letters, digits and underscores"
            )
        cores = self.cpu.cores.total
        declared = [choice.name for choice in self.runtimes]
        if self.runtime not in declared:
            problems.append(
                f"runtime {self.runtime!r} has no table [runtimes.{self.runtime}]; "
                f"declared are {', '.join(declared) or 'none'}"
            )
        if not 1 <= self.threads <= self.cpu.cores.total:
            problems.append(f"threads {self.threads} is not within 1 to {cores} cores")
        if not 1 <= self.slots <= SLOTS_MAX:
            problems.append(f"slots {self.slots} is not within 1 to {SLOTS_MAX}")
        if self.max_context < 1:
            problems.append(f"max_context {self.max_context} is not positive")
        for choice in self.runtimes:
            problems += self._contradictions_of(choice)
        refuse_if_any(self.name or "profile", problems)

    def _contradictions_of(self, choice: RuntimeChoice) -> list[str]:
        where = f"runtimes.{choice.name}"
        problems = []
        if USERLAND_ISA[choice.userland] != self.cpu.isa:
            problems.append(f"{where}: userland {choice.userland} does not run on {self.cpu.isa}")
        for provider in choice.execution_providers:
            kind = PROVIDER_ACCELERATOR[choice.name][provider]
            if kind not in {"none", self.accelerator.kind}:
                problems.append(
                    f"{where}: {provider} needs a {kind} accelerator, "
                    f"the board's kind is {self.accelerator.kind!r}"
                )
        problems += [
            f"{where}.recipe: {problem}"
            for problem in problems_with_recipe(
                choice.recipe,
                runtime=choice.name,
                userland=choice.userland,
                features=self.cpu.features,
            )
        ]
        element = CACHE_DTYPE_BYTES[choice.cache_dtype]
        cache = self.max_context * SMALLEST_CACHE_ELEMENTS * element
        for variant in self.memory.variants:
            if choice.overhead_bytes + cache > variant.usable_bytes:
                problems.append(
                    f"{where}: overhead_bytes ({choice.overhead_bytes // MEBIBYTE} MiB) and the "
                    f"smallest cache of max_context {self.max_context} ({cache // MEBIBYTE} MiB) "
                    f"exceed what {variant.name} leaves to a model "
                    f"({variant.usable_bytes // MEBIBYTE} MiB) before any weight is loaded"
                )
        return problems

    @property
    def qualified_name(self) -> str:
        """The name that load_profile takes to give this very profile: "raspberry_pi_5:16gb"."""
        if self.memory.variant == self.memory.default_variant:
            return self.name
        return f"{self.name}:{self.memory.variant}"

    @property
    def recipe(self) -> RecipeChoice:
        """The recipe for the runtime in force."""
        return self.recipe_for(self.runtime)

    @property
    def execution_providers(self) -> tuple[str, ...]:
        """Execution providers of the runtime in force, in order of preference."""
        return self.runtime_choice(self.runtime).execution_providers

    @property
    def cache_dtype(self) -> str:
        """Type of the cache's elements with the runtime in force."""
        return self.runtime_choice(self.runtime).cache_dtype

    @property
    def python(self) -> tuple[str, ...]:
        """Python versions that have wheels of the runtime in force."""
        return self.runtime_choice(self.runtime).python

    def runtime_choice(self, runtime: str) -> RuntimeChoice:
        """Return how ``runtime`` is used on this board.

        Raises:
            ProfileError: The profile does not declare that runtime.
        """
        for choice in self.runtimes:
            if choice.name == runtime:
                return choice
        declared = [choice.name for choice in self.runtimes]
        message = unknown(f"profile {self.name}: runtime", runtime, declared)
        raise ProfileError(f"{message}.")

    def recipe_for(self, runtime: str) -> RecipeChoice:
        """Return the recipe for ``runtime`` on this board; ProfileError as runtime_choice."""
        return self.runtime_choice(runtime).recipe

    def problems_with(self, recipe: RecipeChoice, runtime: str) -> tuple[str, ...]:
        """Say why ``recipe`` would not work, or only slowly, with ``runtime`` on this board.

        Raises:
            ProfileError: The profile does not declare that runtime.
        """
        return problems_with_recipe(
            recipe,
            runtime=runtime,
            userland=self.runtime_choice(runtime).userland,
            features=self.cpu.features,
        )

    def for_runtime(self, runtime: str) -> Profile:
        """Return the same board with ``runtime`` in force; ProfileError as runtime_choice."""
        self.runtime_choice(runtime)
        return dataclasses.replace(self, runtime=runtime)

    def with_variant(self, variant: str) -> Profile:
        """Return the same board with another size of RAM, as "16gb".

        Raises:
            ProfileError: The board is not sold with that size.
        """
        names = [known.name for known in self.memory.variants]
        if variant not in names:
            raise ProfileError(f"profile {self.name}: {unknown('RAM variant', variant, names)}.")
        return dataclasses.replace(self, memory=dataclasses.replace(self.memory, variant=variant))

    def decode_limit_tokens_per_second(self, bytes_per_token: float) -> float:
        """Return the rate at which decoding can not exceed the memory bus.

        Every token reads each weight it multiplies and the cache once, so
        rate <= bandwidth / bytes read a token. An upper bound: nothing measured.

        Args:
            bytes_per_token: Bytes read from memory for one token; positive.

        Returns:
            Tokens a second.
        """
        if bytes_per_token <= 0:
            raise ValueError(f"bytes_per_token must be positive, not {bytes_per_token}")
        return self.memory.bandwidth_bytes_per_second / bytes_per_token

    def as_dict(self) -> dict[str, Any]:
        """Return all of the profile in the types of JSON, for printing."""
        plain = dataclasses.asdict(self)
        plain["cpu"]["features"] = sorted(self.cpu.features)
        plain["memory"]["ram_bytes"] = self.memory.ram_bytes
        plain["memory"]["usable_bytes"] = self.memory.usable_bytes
        for choice in plain["runtimes"]:
            choice["python"] = list(choice["python"])
            choice["execution_providers"] = list(choice["execution_providers"])
        plain["board_models"] = list(self.board_models)
        plain["runtimes"] = {choice.pop("name"): choice for choice in plain["runtimes"]}
        plain["memory"]["variants"] = {
            variant.pop("name"): variant for variant in plain["memory"]["variants"]
        }
        return plain
