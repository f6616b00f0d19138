"""Which profile fits which machine, and what a machine is told it lacks."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import pytest

from edgewise.firmware_profiles import (
    Machine,
    ProfileError,
    available_profiles,
    fitting_profile,
    load_profile,
    misfits,
)
from edgewise.firmware_profiles.cpuinfo import parse_cpuinfo

MEBIBYTE = 1 << 20
PI_OS = "Raspberry Pi OS Bookworm or newer, 64-bit (Debian 12)"
LINUX, ANDROID = "linux", "android"
ARM_64, ARM_32, X86 = "aarch64", "armv7l", "x86_64"


class Case(NamedTuple):
    """A machine as its kernel describes it, and the profile that fits."""

    captured: str
    board: str | None
    family: str
    userland: str
    mebibytes: int  # of RAM, as the kernel reports it
    expected: str


PI_5 = "Raspberry Pi 5 Model B Rev 1.0"
ORIN = "NVIDIA Jetson Orin Nano"
CASES = [
    Case("raspberry_pi_zero_2w_32bit", None, LINUX, ARM_32, 416, "raspberry_pi_zero_2w"),
    Case("raspberry_pi_3", None, LINUX, ARM_32, 906, "raspberry_pi_3"),
    Case("raspberry_pi_3", "Raspberry Pi 3 A Plus", LINUX, ARM_32, 416, "raspberry_pi_3:512mb"),
    Case("raspberry_pi_4", "Raspberry Pi 4 Model B", LINUX, ARM_64, 3794, "raspberry_pi_4"),
    Case("raspberry_pi_4", "Raspberry Pi 4 Model B", LINUX, ARM_64, 7811, "raspberry_pi_4:8gb"),
    Case("raspberry_pi_4", "Raspberry Pi 400 Rev 1.0", LINUX, ARM_64, 3794, "raspberry_pi_4"),
    Case("raspberry_pi_5", PI_5, LINUX, ARM_64, 2010, "raspberry_pi_5:2gb"),
    Case("raspberry_pi_5", PI_5, LINUX, ARM_64, 4045, "raspberry_pi_5:4gb"),
    Case("raspberry_pi_5", PI_5, LINUX, ARM_64, 8052, "raspberry_pi_5"),
    Case("raspberry_pi_5", PI_5, LINUX, ARM_64, 16218, "raspberry_pi_5:16gb"),
    Case("raspberry_pi_5", "Raspberry Pi Compute Module 5", LINUX, ARM_64, 8052, "raspberry_pi_5"),
    Case("jetson_nano", "NVIDIA Jetson Nano Developer Kit", LINUX, ARM_64, 3956, "jetson_nano"),
    Case("jetson_orin_nano", f"{ORIN} Developer Kit", LINUX, ARM_64, 7620, "jetson_orin_nano"),
    Case("jetson_orin_nano", f"{ORIN} Engineering Kit", LINUX, ARM_64, 7620, "jetson_orin_nano"),
    Case("jetson_agx_orin", "NVIDIA Jetson AGX Orin", LINUX, ARM_64, 62842, "jetson_agx_orin"),
    Case("android_tensor_g3", "Pixel 9", ANDROID, ARM_64, 11700, "android_pixel_9"),
    Case("android_tensor_g3", "Pixel 9 Pro", ANDROID, ARM_64, 15500, "android_pixel_9:16gb"),
    Case("android_tensor_g3", "Pixel 8 Pro", ANDROID, ARM_64, 11700, "android_arm64:8gb"),
    Case("android_helio_g85", "M2003J15SC", ANDROID, ARM_64, 3700, "android_arm64"),
    Case("x86_64_amd_milan", None, LINUX, X86, 24105, "x86_64:16gb"),
    Case("x86_64_intel_tiger_lake", None, LINUX, X86, 15800, "x86_64:16gb"),
    # No board of ours: the nearest by what its CPU can do.
    Case("raspberry_pi_5", "Orange Pi 5", LINUX, ARM_64, 7900, "raspberry_pi_5"),
    Case("raspberry_pi_4", "A board with Cortex-A72", LINUX, ARM_64, 3900, "raspberry_pi_4"),
]


def machine_of(case: Case, text: str) -> Machine:
    cpu = parse_cpuinfo(text)
    return Machine(
        architecture=case.userland,
        cpu_model=cpu.model,
        features=cpu.features,
        logical_cores=cpu.logical_cores,
        physical_cores=cpu.physical_cores,
        big_cores=cpu.big_cores,
        usable_cores=cpu.big_cores,
        memory_total_bytes=case.mebibytes * MEBIBYTE,
        memory_available_bytes=case.mebibytes * MEBIBYTE // 2,
        memory_limit_bytes=None,
        board=case.board or cpu.board,
        os_family=case.family,
        os_name="a system",
        python_version="3.11.2",
        libc="bionic" if case.family == ANDROID else "glibc 2.36",
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.captured}-{case.mebibytes}")
def test_machines_find_their_profiles(case: Case, cpuinfo_text: Callable[[str], str]) -> None:
    profile, reasons = fitting_profile(machine_of(case, cpuinfo_text(case.captured)))
    assert profile.qualified_name == case.expected
    assert f"make it the {profile.memory.variant} variant" in reasons[1]
    assert reasons[2:] == ()  # it lacks nothing


def test_a_known_board_is_named_in_the_reasons(machine: Machine) -> None:
    profile, reasons = fitting_profile(machine)
    assert profile.qualified_name == "raspberry_pi_5"
    assert reasons == (
        "the board calls itself 'Raspberry Pi 5 Model B Rev 1.0'",
        "8048 MiB of memory make it the 8gb variant, 7168 MiB of it for models",
    )


def test_a_machine_that_is_no_board_is_told_so(machine: Machine) -> None:
    _, reasons = fitting_profile(dataclasses.replace(machine, board=None))
    assert reasons[0] == (
        "Cortex-A76 is no known board; Raspberry Pi 5 is the nearest board (aarch64, dotprod, neon)"
    )


def test_a_memory_limit_chooses_the_variant(machine: Machine) -> None:
    limited = dataclasses.replace(machine, memory_limit_bytes=2048 * MEBIBYTE)
    profile, _ = fitting_profile(limited)
    assert profile.qualified_name == "raspberry_pi_5:2gb"
    tiny = dataclasses.replace(machine, memory_limit_bytes=256 * MEBIBYTE)
    profile, reasons = fitting_profile(tiny)
    assert profile.qualified_name == "raspberry_pi_5:2gb"
    assert "256 MiB of memory, of which the profile's models may use 1536" in reasons


def test_an_architecture_without_profiles_is_refused(machine: Machine) -> None:
    other = dataclasses.replace(machine, architecture="riscv64", board=None)
    with pytest.raises(ProfileError, match=r"no profile is for riscv64.*raspberry_pi_5"):
        fitting_profile(other)


def test_a_machine_that_is_the_board_lacks_nothing(machine: Machine) -> None:
    assert misfits(load_profile("raspberry_pi_5"), machine) == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"architecture": "armv7l"},
            "this Python is built for armv7l, the profile's onnx runtime for aarch64",
        ),
        (
            {"os_family": "macos", "os_name": "macOS 15"},
            f"the system is macOS 15, the profile is for {PI_OS}",
        ),
        ({"features": frozenset({"neon"})}, "the CPU (Cortex-A76) has no dotprod"),
        ({"features": frozenset()}, "the CPU (Cortex-A76) has no dotprod and no neon"),
        (
            {"memory_total_bytes": 4096 * MEBIBYTE},
            "4096 MiB of memory, of which the profile's models may use 7168",
        ),
        (
            {"memory_limit_bytes": 1024 * MEBIBYTE},
            "1024 MiB of memory, of which the profile's models may use 7168",
        ),
        ({"physical_cores": 2}, "2 cores for the profile's 4 threads"),
        (
            {"python_version": "3.10.12"},
            "Python 3.10, where the onnx runtime has wheels for 3.11, 3.12, 3.13, 3.14",
        ),
        ({"libc": "glibc 2.9"}, "glibc 2.9, where the profile's system has glibc 2.36"),
    ],
)
def test_each_lack_is_told(change: dict[str, object], expected: str, machine: Machine) -> None:
    lacking = dataclasses.replace(machine, **change)
    assert misfits(load_profile("raspberry_pi_5"), lacking) == (expected,)


def test_a_newer_or_another_c_library_is_no_lack(machine: Machine) -> None:
    for libc in ("glibc 2.41", "unknown"):
        assert (
            misfits(load_profile("raspberry_pi_5"), dataclasses.replace(machine, libc=libc)) == ()
        )


def test_another_architecture_is_one_lack_and_not_a_list_of_features(machine: Machine) -> None:
    lacks = misfits(load_profile("x86_64"), machine)
    assert lacks[0].startswith("this Python is built for aarch64")
    assert not any("avx2" in lack for lack in lacks)


def test_every_profile_can_be_compared(machine: Machine) -> None:
    for name in available_profiles():
        for runtime in ("onnx", "tflite"):
            assert isinstance(misfits(load_profile(name).for_runtime(runtime), machine), tuple)
