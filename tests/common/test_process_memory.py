"""Memory figures against an allocation of known size and against the kernel's own files."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgewise.common import process_memory
from edgewise.common.process_memory import (
    anonymous_rss_bytes,
    current_rss_bytes,
    peak_rss_bytes,
)

MEBIBYTE = 1 << 20
PAGE = 4096

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads what the Linux kernel reports"
)


def in_a_new_process(body: str) -> list[int]:
    """Run statements that print whole numbers; a process of its own has a peak of its own."""
    code = f"from edgewise.common.process_memory import *\n{body}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return [int(word) for word in result.stdout.split()]


@needs_linux
def test_the_peak_remembers_what_was_freed():
    before, held, peak, after = in_a_new_process(
        "import mmap\n"
        "print(current_rss_bytes())\n"
        f"block = mmap.mmap(-1, {64 * MEBIBYTE})\n"
        f"for start in range(0, {64 * MEBIBYTE}, {PAGE}): block[start] = 1\n"
        "print(current_rss_bytes())\n"
        "block.close()\n"
        "print(peak_rss_bytes())\n"
        "print(current_rss_bytes())\n"
    )
    assert 63 * MEBIBYTE <= held - before <= 66 * MEBIBYTE
    assert peak >= held - MEBIBYTE  # the kernel adds its counters up a little late
    assert after < held - 60 * MEBIBYTE


@needs_linux
def test_the_peak_does_not_count_what_the_parent_held():
    block = bytearray(96 * MEBIBYTE)
    block[::PAGE] = bytes([1]) * len(block[::PAGE])
    assert peak_rss_bytes() > 96 * MEBIBYTE
    # start_new_session makes subprocess fork, so that the child begins as a copy of this process.
    code = "from edgewise.common.process_memory import *; print(peak_rss_bytes())"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    assert int(child.stdout) < 64 * MEBIBYTE
    assert len(block) == 96 * MEBIBYTE  # held until here


@needs_linux
def test_pages_of_a_file_are_not_anonymous(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(32 * MEBIBYTE))
    all_before, before, all_after, after = in_a_new_process(
        "import mmap\n"
        "print(current_rss_bytes(), anonymous_rss_bytes())\n"
        f"stream = open({str(file)!r}, 'rb')\n"
        "block = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)\n"
        f"sum(block[start] for start in range(0, {32 * MEBIBYTE}, {PAGE}))\n"
        "print(current_rss_bytes(), anonymous_rss_bytes())\n"
    )
    assert all_after - all_before >= 31 * MEBIBYTE
    assert after - before <= 4 * MEBIBYTE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_what_lies_below_a_block_in_use_is_given_back():
    held, freed, given_back = in_a_new_process(
        "blocks = [bytes(1000) for _ in range(32 << 10)]\n"  # too small for pages of their own
        "print(anonymous_rss_bytes())\n"
        "del blocks[:-1]\n"
        "print(anonymous_rss_bytes())\n"
        "give_freed_memory_back()\n"
        "print(anonymous_rss_bytes())\n"
    )
    assert freed > held - 8 * MEBIBYTE
    assert given_back < held - 24 * MEBIBYTE


@needs_linux
def test_figures_are_in_order():
    anonymous, current, peak = anonymous_rss_bytes(), current_rss_bytes(), peak_rss_bytes()
    assert anonymous is not None
    assert current is not None
    assert 0 < anonymous < current
    assert peak > MEBIBYTE


def test_off_linux_there_are_no_such_figures(monkeypatch):
    monkeypatch.setattr(process_memory, "Path", lambda name: Path("/nowhere") / name.strip("/"))
    assert anonymous_rss_bytes() is None
    assert current_rss_bytes() is None


def test_a_kernel_without_the_field_gives_none(monkeypatch, tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmRSS:\t      40 kB\n")
    monkeypatch.setattr(process_memory, "Path", lambda name: status)
    assert current_rss_bytes() == 40 * 1024
    assert anonymous_rss_bytes() is None


@pytest.mark.parametrize(("platform", "factor"), [("linux", 1024), ("darwin", 1)])
def test_the_unit_of_getrusage_depends_on_the_system(monkeypatch, platform, factor):
    class Usage:
        ru_maxrss = 1000

    monkeypatch.setattr(process_memory.resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(process_memory.sys, "platform", platform)
    monkeypatch.setattr(process_memory, "Path", lambda name: Path("/nowhere") / name.strip("/"))
    assert peak_rss_bytes() == 1000 * factor
