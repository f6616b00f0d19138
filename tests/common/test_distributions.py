"""Versions by the names of folders are those that importlib.metadata reads from the files."""

import subprocess
import sys
from importlib import metadata

import pytest

from edgewise.common.distributions import installed_version


def test_everything_installed_has_the_version_that_its_metadata_says():
    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    assert {"numpy", "pytest"} <= names
    for name in names:
        assert installed_version(name) == metadata.version(name)


@pytest.mark.parametrize("name", ["a.b", "A_B", "a-b", "a__b"])
def test_spellings_of_a_name_mean_the_same(tmp_path, monkeypatch, name):
    (tmp_path / "a_b-1.2.dist-info").mkdir()
    (tmp_path / "a_b_c-3.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_version(name) == "1.2"


def test_the_first_folder_of_the_path_counts(tmp_path, monkeypatch):
    for order in ("first", "second"):
        (tmp_path / order / f"thing-{len(order)}.dist-info").mkdir(parents=True)
    monkeypatch.setattr(
        sys, "path", [str(tmp_path / "absent"), str(tmp_path / "second"), str(tmp_path / "first")]
    )
    assert installed_version("thing") == "6"


def test_a_package_of_debian_has_a_file_in_another_form(tmp_path, monkeypatch):
    (tmp_path / "thing-1.24.2.egg-info").write_text("Name: thing\nVersion: 1.24.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_version("thing") == "1.24.2"


def test_what_is_not_installed_has_none():
    assert installed_version("edgewise-of-another-world") is None


def test_looking_imports_no_parser_of_mail():
    code = (
        "import sys\n"
        "from edgewise.common.distributions import installed_version\n"
        "installed_version('numpy')\n"
        "print('email' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
