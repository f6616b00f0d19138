"""The picture of a comparison: what it shows, and that both files come out."""

from xml.etree import ElementTree

import pytest
from picture import draw, panels

ENGINES = [{"name": "ours", "kind": "edgewise"}, {"name": "theirs", "kind": "genai"}]


def content(idle=1.0):
    given = [
        (1, "theirs", 1.0, {"a": 4.0}),
        (1, "ours", 1.0, {"a": 1.0, "b": 7.0}),
        (2, "theirs", 1.0, {"a": 5.0}),
        (2, "ours", idle, {"a": 2.0}),
    ]
    return {
        "engines": ENGINES,
        "least_idle": 0.93,
        "labels": {"a": "first, s", "b": "second", "c": "never measured"},
        "measurements": [
            dict(zip(("round", "engine", "idle", "figures"), one, strict=True)) for one in given
        ],
    }


def test_panels_have_the_values_that_count_in_the_engines_order():
    found = panels(content())
    assert found == {
        "first, s": {"ours": [1.0, 2.0], "theirs": [4.0, 5.0]},
        "second": {"ours": [7.0]},
    }
    assert list(found["first, s"]) == ["ours", "theirs"]
    assert panels(content(idle=0.5))["first, s"] == {"ours": [1.0], "theirs": [4.0]}


def test_both_files_are_drawn_with_every_figure_and_engine(tmp_path):
    pytest.importorskip("matplotlib")
    files = draw(content(), tmp_path / "v1.2")
    assert [file.name for file in files] == ["v1.2.png", "v1.2.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    texts = {element.text for element in ElementTree.parse(files[1]).iter() if element.text}  # noqa: S314  # our own file
    assert {"first, s", "second", "ours", "theirs", "1.5", "4.5", "7"} <= texts
    again = draw(content(), tmp_path / "again")
    assert again[1].read_bytes() == files[1].read_bytes()


def test_nothing_measured_is_told():
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit, match="nothing to draw"):
        draw({**content(), "measurements": []}, None)
