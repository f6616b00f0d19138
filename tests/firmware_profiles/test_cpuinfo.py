"""What kernels write, read exactly: captured texts of boards, phones and x86."""

from collections.abc import Callable

import pytest

from edgewise.firmware_profiles.cpuinfo import (
    cgroup_folders,
    cpuinfo_of_sysctl,
    parse_cgroup_limit,
    parse_cpu_quota,
    parse_cpuinfo,
    parse_device_tree_model,
    parse_getprop,
    parse_meminfo,
    parse_os_release,
    parse_sysctl,
)

CAPTURED = {
    # name: (model, features, logical, physical, big, board)
    "raspberry_pi_zero_2w_32bit": (
        "Cortex-A53",
        {"neon"},
        4,
        4,
        4,
        "Raspberry Pi Zero 2 W Rev 1.0",
    ),
    "raspberry_pi_3": ("Cortex-A53", {"neon"}, 4, 4, 4, "Raspberry Pi 3 Model B Rev 1.2"),
    "raspberry_pi_4": ("Cortex-A72", {"neon"}, 4, 4, 4, None),
    "raspberry_pi_5": (
        "Cortex-A76",
        {"neon", "dotprod"},
        4,
        4,
        4,
        "Raspberry Pi 5 Model B Rev 1.0",
    ),
    "jetson_nano": ("Cortex-A57", {"neon"}, 4, 4, 4, None),
    "jetson_orin_nano": ("Cortex-A78AE", {"neon", "dotprod"}, 6, 6, 6, None),
    "jetson_agx_orin": ("Cortex-A78AE", {"neon", "dotprod"}, 12, 12, 12, None),
    "android_tensor_g3": (
        "4 x Cortex-A510 + 4 x Cortex-A715 + 1 x Cortex-X3",
        {"neon", "dotprod", "i8mm", "sve"},
        9,
        9,
        5,
        None,
    ),
    "android_helio_g85": (
        "6 x Cortex-A55 + 2 x Cortex-A75",
        {"neon", "dotprod"},
        8,
        8,
        2,
        None,
    ),
    "android_old_kernel": ("Cortex-A53", {"neon"}, 4, 4, 4, None),
    "x86_64_amd_milan": ("AMD EPYC", {"avx2"}, 2, 2, 2, None),
    "x86_64_intel_tiger_lake": (
        "11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz",
        {"avx2", "avx512_vnni"},
        8,
        4,
        4,
        None,
    ),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_captured_cpuinfo(name: str, cpuinfo_text: Callable[[str], str]) -> None:
    info = parse_cpuinfo(cpuinfo_text(name))
    assert (
        info.model,
        set(info.features),
        info.logical_cores,
        info.physical_cores,
        info.big_cores,
        info.board,
    ) == CAPTURED[name]


def test_a_feature_that_one_core_lacks_is_no_feature(
    cpuinfo_text: Callable[[str], str],
) -> None:
    text = cpuinfo_text("raspberry_pi_5")
    first, rest = text.split("\n\n", 1)
    mixed = first.replace(" asimddp", "") + "\n\n" + rest
    assert parse_cpuinfo(mixed).features == {"neon"}


def test_two_sockets_have_the_cores_of_both() -> None:
    text = "\n\n".join(
        f"processor\t: {number}\nmodel name\t: X\nphysical id\t: {socket}\ncore id\t: {core}\n"
        "flags\t: avx2"
        for number, (socket, core) in enumerate(
            [(socket, core) for socket in (0, 1) for core in (0, 1)] * 2
        )
    )
    info = parse_cpuinfo(text)
    assert (info.logical_cores, info.physical_cores) == (8, 4)


def test_unknown_parts_are_named_by_number() -> None:
    text = "processor : 0\nFeatures : asimd\nCPU implementer : 0x4e\nCPU part : 0x004\n"
    assert parse_cpuinfo(text).model == "CPU part 0x004 of implementer 0x4e"


def test_nothing_gives_one_core_and_no_features() -> None:
    info = parse_cpuinfo("")
    assert (info.model, info.features, info.physical_cores) == ("unknown", frozenset(), 1)


def test_sysctl_of_macos() -> None:
    values = parse_sysctl(
        "machdep.cpu.brand_string: Apple M1\nhw.physicalcpu: 8\nhw.logicalcpu: 8\n"
        "hw.perflevel0.physicalcpu: 4\nhw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\n"
        "hw.optional.arm.FEAT_I8MM: 0\nhw.memsize: 17179869184\nhw.model: MacBookAir10,1\n"
        "kern.version: a line: with colons\n"
    )
    info = cpuinfo_of_sysctl(values)
    assert info.model == "Apple M1"
    assert info.features == {"neon", "dotprod"}
    assert (info.logical_cores, info.physical_cores, info.big_cores) == (8, 8, 4)
    assert info.board == "MacBookAir10,1"
    assert values["hw.memsize"] == "17179869184"
    intel = cpuinfo_of_sysctl({"hw.physicalcpu": "4", "hw.logicalcpu": "8"})
    assert (intel.physical_cores, intel.big_cores, intel.logical_cores) == (4, 4, 8)


def test_meminfo() -> None:
    text = (
        "MemTotal:         436908 kB\nMemFree:          241020 kB\n"
        "MemAvailable:     335880 kB\nHugePages_Total:       0\n"
    )
    assert parse_meminfo(text) == (436908 * 1024, 335880 * 1024)
    assert parse_meminfo(text.replace("MemAvailable", "Other")) == (436908 * 1024, 241020 * 1024)
    assert parse_meminfo("") == (0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max\n", None),
        ("536870912\n", 536870912),
        ("9223372036854771712\n", None),
        ("", None),
    ],
)
def test_cgroup_limits(text: str, expected: int | None) -> None:
    assert parse_cgroup_limit(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("-1 100000", None),
        ("100000 0", None),
        (" ", None),
        ("", None),
    ],
)
def test_cpu_quota(text: str, expected: float | None) -> None:
    assert parse_cpu_quota(text) == expected


def test_cgroup_folders_of_version_2_reach_up_to_the_root() -> None:
    assert cgroup_folders("0::/user.slice/app.scope\n", "memory") == [
        "user.slice/app.scope",
        "user.slice",
        "",
    ]


def test_cgroup_folders_of_version_1_lie_under_their_controllers() -> None:
    text = "9:name=systemd:/\n4:memory:/docker/abc\n2:cpu,cpuacct:/\n1:cpuset:/x\nbroken\n0::/\n"
    assert cgroup_folders(text, "memory") == ["memory/docker/abc", "memory/docker", "memory", ""]
    assert cgroup_folders(text, "cpu") == ["cpu,cpuacct", ""]


def test_os_release_getprop_and_device_tree() -> None:
    assert parse_os_release('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == (
        "Debian GNU/Linux 12 (bookworm)"
    )
    assert parse_os_release("ID=x\n") is None
    assert parse_getprop("[ro.product.model]: [Pixel 9 Pro]\n[empty]: []\nnoise\n") == {
        "ro.product.model": "Pixel 9 Pro",
        "empty": "",
    }
    assert parse_device_tree_model(b"Raspberry Pi 5 Model B Rev 1.0\0") == (
        "Raspberry Pi 5 Model B Rev 1.0"
    )
    assert parse_device_tree_model(b"") == ""
