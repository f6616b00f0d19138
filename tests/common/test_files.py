"""Files and folders that are there whole or not at all, also after kill -9."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgewise.common.files import (
    HASH_CHUNK,
    folder_written_atomically,
    fsync_path,
    sha256_of_file,
    write_atomically,
)

KILLS = 12
WRITTEN_BYTES = 1 << 20  # enough for a kill to land inside a write


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 5000])
def test_a_file_gets_exactly_the_content(tmp_path, content):
    write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content
    assert names_in(tmp_path) == ["file"]


def test_a_file_is_replaced_and_has_a_new_inode(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"a long first content")
    with path.open("rb") as open_before:
        write_atomically(path, b"second")
        assert open_before.read() == b"a long first content"  # a reader keeps what it opened
    assert path.read_bytes() == b"second"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_permission_bits_are_those_asked_for(tmp_path, mode):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"secret", mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_replaced_file_does_not_keep_wider_permission_bits(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"open")
    write_atomically(path, b"secret", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_old_content_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """The order that a power cut tests: write, fsync the file, rename, fsync the folder."""
    events = []
    path = tmp_path / "file"
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("fsync", "folder" if target == tmp_path else "temporary"))
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append(("rename", "temporary"))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(path, b"content")
    assert events == [("fsync", "temporary"), ("rename", "temporary"), ("fsync", "folder")]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program that prints a line each time it has gone round once."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    """Kill -9 a started program some time after it has gone round once."""
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


WRITE_FILES = f"""
import itertools, sys
from pathlib import Path
from edgewise.common.files import write_atomically
for index in itertools.count():
    write_atomically(Path(sys.argv[1]), bytes([index % 251]) * {WRITTEN_BYTES})
    print(index, flush=True)
"""


def test_kill_9_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for round_index in range(KILLS):
        kill_after(start(WRITE_FILES, path), 0.001 * round_index)
        content = path.read_bytes()
        assert len(content) == WRITTEN_BYTES
        assert len(set(content)) == 1


def test_a_folder_appears_with_all_that_was_written(tmp_path):
    target = tmp_path / "parents" / "are made" / "bundle"
    with folder_written_atomically(target) as temporary:
        assert temporary.parent == target.parent
        (temporary / "sub").mkdir()
        (temporary / "sub" / "inner").write_bytes(b"inner")
        (temporary / "outer").write_bytes(b"outer")
        assert not target.exists()
    assert tree(target) == {"sub/inner": b"inner", "outer": b"outer"}
    assert names_in(target.parent) == ["bundle"]


def test_a_folder_replaces_the_older_one_whole(tmp_path):
    target = tmp_path / "bundle"
    for content in (b"first", b"second"):
        with folder_written_atomically(target) as temporary:
            (temporary / content.decode()).write_bytes(content)
    assert tree(target) == {"second": b"second"}
    assert names_in(tmp_path) == ["bundle"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path, failure):
    target = tmp_path / "bundle"
    with folder_written_atomically(target) as temporary:
        (temporary / "file").write_bytes(b"old")

    def write_half() -> None:
        with folder_written_atomically(target) as temporary:
            (temporary / "file").write_bytes(b"new")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert tree(target) == {"file": b"old"}
    assert names_in(tmp_path) == ["bundle"]


def test_a_folder_that_fails_first_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no"), folder_written_atomically(tmp_path / "b"):
        raise ValueError("no")
    assert names_in(tmp_path) == []


def test_every_file_of_a_folder_is_flushed_before_the_folder_appears(tmp_path, monkeypatch):
    target = tmp_path / "bundle"
    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append(path.name if not path.name.endswith(".tmp") else "temporary")
        if path != tmp_path:
            assert not target.exists()

    monkeypatch.setattr(os, "fsync", fsync)
    with folder_written_atomically(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "inner").write_bytes(b"inner")
        (temporary / "outer").write_bytes(b"outer")
    assert set(flushed) == {"sub", "inner", "outer", "temporary", tmp_path.name}
    assert flushed[-1] == tmp_path.name


WRITE_FOLDERS = """
import sys
from pathlib import Path
from edgewise.common.files import folder_written_atomically
target = Path(sys.argv[1])
with folder_written_atomically(target) as temporary:
    for part in range(200):
        (temporary / f"part{part}").write_bytes(b"new" * 1000)
        print(part, flush=True)
    sys.stdin.read()
"""


def test_kill_9_while_a_folder_is_written_leaves_the_old_one(tmp_path):
    target = tmp_path / "bundle"
    with folder_written_atomically(target) as temporary:
        (temporary / "file").write_bytes(b"old")
    for round_index in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOLDERS, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        kill_after(process, 0.002 * round_index)
        assert process.stdin is not None
        process.stdin.close()
        assert tree(target) == {"file": b"old"}


@pytest.mark.parametrize("size", [0, 1, HASH_CHUNK - 1, HASH_CHUNK, 2 * HASH_CHUNK + 1])
def test_hashes_are_those_of_hashlib(tmp_path, size):
    content = bytes(itertools.islice(itertools.cycle(range(256)), size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_flushing_what_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / "missing")
