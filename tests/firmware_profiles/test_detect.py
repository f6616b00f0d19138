"""Detection over a made-up file system, and of the machine that runs the tests."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise.firmware_profiles import detect, detect_machine, physical_cores
from edgewise.firmware_profiles.detect import (
    cpu_quota,
    libc_name,
    memory_limit,
    userland_architecture,
)

Files = dict[str, str]


@pytest.fixture
def root(tmp_path: Path) -> Callable[[Files], Path]:
    """Lay out files below a root folder."""

    def lay_out(files: Files) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return lay_out


@pytest.fixture
def on_linux(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make Python report a 64-bit Arm Linux with eight processors to run on."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("ANDROID_ROOT", raising=False)
    return monkeypatch


def test_a_raspberry_pi_5(
    root: Callable[[Files], Path],
    on_linux: pytest.MonkeyPatch,
    cpuinfo_text: Callable[[str], str],
) -> None:
    machine = detect_machine(
        root(
            {
                "proc/cpuinfo": cpuinfo_text("raspberry_pi_5"),
                "proc/meminfo": "MemTotal: 8245520 kB\nMemAvailable: 7000000 kB\n",
                "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.1\0",
                "proc/self/cgroup": "0::/system.slice/edgewise.service\n",
                "sys/fs/cgroup/system.slice/edgewise.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/memory.max": "2147483648\n",
                "sys/fs/cgroup/system.slice/edgewise.service/cpu.max": "250000 100000\n",
                "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            }
        )
    )
    assert machine.architecture == "aarch64"
    assert machine.cpu_model == "Cortex-A76"
    assert machine.features == {"neon", "dotprod"}
    assert machine.board == "Raspberry Pi 5 Model B Rev 1.1"
    assert machine.memory_total_bytes == 8245520 * 1024
    assert machine.memory_limit_bytes == machine.memory_bytes == 2147483648
    assert machine.usable_cores == 3  # a quota of two and a half cores
    assert machine.os_name == "Debian GNU/Linux 12 (bookworm)"
    assert machine.python_version == platform.python_version()
    assert machine.as_dict()["features"] == ["dotprod", "neon"]


def test_the_board_may_stand_in_cpuinfo_alone(
    root: Callable[[Files], Path],
    on_linux: pytest.MonkeyPatch,
    cpuinfo_text: Callable[[str], str],
) -> None:
    folder = root({"proc/cpuinfo": cpuinfo_text("raspberry_pi_3")})
    assert detect_machine(folder).board == "Raspberry Pi 3 Model B Rev 1.2"


def test_little_cores_and_affinity_bound_the_threads(
    root: Callable[[Files], Path],
    on_linux: pytest.MonkeyPatch,
    cpuinfo_text: Callable[[str], str],
) -> None:
    folder = root({"proc/cpuinfo": cpuinfo_text("android_tensor_g3")})
    machine = detect_machine(folder)
    assert (machine.physical_cores, machine.big_cores, machine.usable_cores) == (9, 5, 5)
    on_linux.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert detect_machine(folder).usable_cores == 2


def test_hidden_features_leave_what_the_architecture_guarantees(
    root: Callable[[Files], Path], on_linux: pytest.MonkeyPatch
) -> None:
    machine = detect_machine(root({"proc/cpuinfo": "processor : 0\n"}))
    assert machine.features == {"neon"}
    assert machine.board is None
    assert machine.usable_cores == 1


def test_android(
    root: Callable[[Files], Path],
    on_linux: pytest.MonkeyPatch,
    cpuinfo_text: Callable[[str], str],
) -> None:
    on_linux.setenv("ANDROID_ROOT", "/system")
    on_linux.setattr(
        detect,
        "_output_of",
        lambda *command: (
            "[ro.product.model]: [Pixel 9]\n[ro.build.version.release]: [15]\n"
            if command == ("getprop",)
            else ""
        ),
    )
    machine = detect_machine(root({"proc/cpuinfo": cpuinfo_text("android_tensor_g3")}))
    assert (machine.os_family, machine.os_name) == ("android", "Android 15")
    assert machine.board == "Pixel 9"
    assert machine.libc == "bionic"


def test_macos(root: Callable[[Files], Path], on_linux: pytest.MonkeyPatch) -> None:
    on_linux.setattr(platform, "system", lambda: "Darwin")
    on_linux.setattr(platform, "machine", lambda: "arm64")
    on_linux.setattr(
        detect,
        "_output_of",
        lambda *_: (
            "machdep.cpu.brand_string: Apple M1\nhw.physicalcpu: 8\nhw.logicalcpu: 8\n"
            "hw.perflevel0.physicalcpu: 4\nhw.optional.arm.FEAT_DotProd: 1\nhw.memsize: 8000\n"
        ),
    )
    machine = detect_machine(root({}))
    assert (machine.os_family, machine.architecture) == ("macos", "aarch64")
    assert machine.features == {"neon", "dotprod"}
    assert machine.usable_cores == 4
    assert machine.memory_bytes == 8000


@pytest.mark.parametrize(
    ("machine", "is_64_bit", "expected"),
    [
        ("aarch64", True, "aarch64"),
        ("aarch64", False, "armv7l"),  # 32-bit Raspberry Pi OS on its 64-bit kernel
        ("arm64", True, "aarch64"),
        ("armv8l", False, "armv7l"),
        ("armv7l", False, "armv7l"),
        ("x86_64", True, "x86_64"),
        ("AMD64", True, "x86_64"),
        ("x86_64", False, "i686"),
        ("riscv64", True, "riscv64"),
    ],
)
def test_userlands(machine: str, is_64_bit: bool, expected: str) -> None:
    assert userland_architecture(machine, is_64_bit=is_64_bit) == expected


def test_version_1_limits(root: Callable[[Files], Path]) -> None:
    folder = root(
        {
            "proc/self/cgroup": "4:memory:/a/b\n3:cpu,cpuacct:/a\n0::/\n",
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1073741824\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        }
    )
    assert memory_limit(folder) == 1073741824
    assert cpu_quota(folder) == 0.5


def test_a_container_that_hides_its_path_has_its_limit_at_the_root(
    root: Callable[[Files], Path],
) -> None:
    folder = root(
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "268435456\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
        }
    )
    assert memory_limit(folder) == 268435456
    assert cpu_quota(folder) is None


def test_nothing_readable_means_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert cpu_quota(tmp_path) is None


def test_tools_that_are_missing_or_fail_give_nothing() -> None:
    assert detect._output_of("no-such-tool-of-ours") == ""
    assert detect._output_of(sys.executable, "-c", "print('x')") == "x\n"


def test_libc_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert libc_name("android") == "bionic"

    def unknown(_: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown, raising=False)
    assert libc_name("linux") == "unknown"
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.36", raising=False)
    assert libc_name("linux") == "glibc 2.36"


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's own tools")
def test_this_machine_agrees_with_its_own_tools() -> None:
    machine = detect_machine()
    processors = int(subprocess.run(["nproc", "--all"], capture_output=True, check=True).stdout)
    assert machine.logical_cores == processors
    assert 1 <= machine.usable_cores <= machine.physical_cores <= machine.logical_cores
    assert physical_cores() == machine.usable_cores
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory_total_bytes == pages
    assert 0 < machine.memory_available_bytes <= machine.memory_total_bytes
