"""The tables of the documentation say what the profiles say."""

from pathlib import Path

import pytest

from edgewise.firmware_profiles import ProfileError, available_profiles
from edgewise.firmware_profiles.table import main, render, with_tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "profiles.md"


def test_the_document_is_up_to_date() -> None:
    document = DOCUMENT.read_text()
    assert with_tables(document) == document, (
        "run: python -m edgewise.firmware_profiles.table docs/profiles.md"
    )


def test_every_profile_has_a_row_in_each_table() -> None:
    boards, runtimes, bandwidths = (
        table for table in render().split("\n\n") if table.startswith("|")
    )
    for name in available_profiles():
        assert boards.count(f"| `{name}` |") == 1
        assert runtimes.count(f"| `{name}` |") == 2
        assert bandwidths.count(f"| `{name}` |") == 1


def test_rows_have_as_many_cells_as_their_header() -> None:
    for table in render().split("\n\n"):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_command_rewrites_between_the_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "profiles.md"
    stale = DOCUMENT.read_text().replace("17.1", "99.9")
    document.write_text(stale)
    main([str(document)])
    assert document.read_text() == DOCUMENT.read_text()
    main([])
    assert capsys.readouterr().out == render() + "\n"


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ProfileError, match="no lines"):
        with_tables("# Profiles\n")
