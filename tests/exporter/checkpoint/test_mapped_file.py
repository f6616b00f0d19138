"""A file that is mapped and read: the right bytes, none of them left in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.mapped_file import MappedFile

READ_ALL = """
import sys
from pathlib import Path
from edgewise.common.process_memory import current_rss_bytes
from edgewise.exporter.checkpoint.mapped_file import MappedFile
file = MappedFile(Path(sys.argv[1]))
file.copy(0, 1 << 20)
before = current_rss_bytes()
for start in range(0, file.size, 1 << 20):
    file.copy(start, start + (1 << 20))
print(current_rss_bytes() - before)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(range(256)) * 40)
    return path


@pytest.mark.parametrize(("start", "stop"), [(0, 10240), (0, 0), (5000, 5001), (4095, 8193)])
def test_a_range_is_copied(path: Path, start: int, stop: int) -> None:
    file = MappedFile(path)
    assert file.size == 10240
    copied = file.copy(start, stop)
    assert copied.tobytes() == path.read_bytes()[start:stop]
    copied[:] = 0  # the caller's own
    assert file.copy(start, stop).tobytes() == path.read_bytes()[start:stop]
    assert bytes(file.buffer[start:stop]) == path.read_bytes()[start:stop]
    file.close()


def test_a_file_that_is_cut_while_it_is_read_is_refused(path: Path) -> None:
    file = MappedFile(path)
    os.truncate(path, 6000)
    assert np.array_equal(file.copy(5000, 6000), np.arange(5000, 6000) % 256)
    with pytest.raises(CheckpointError, match=r"model\.bin became shorter while it was read"):
        file.copy(5999, 6001)
    file.close()


def test_what_can_not_be_mapped_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="empty is empty"):
        MappedFile(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="absent can not be read: No such file"):
        MappedFile(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="can not be read: Is a directory"):
        MappedFile(tmp_path)


def test_what_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * 32)
    result = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 2 << 20
