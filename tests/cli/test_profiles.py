"""``edgewise profiles``: every board, and everything of one."""

from __future__ import annotations

import json

import pytest

from edgewise.firmware_profiles import available_profiles, load_profile


def test_the_list_has_every_board(edgewise):
    result = edgewise("profiles")
    assert result.code == 0
    rows = result.out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == list(available_profiles())
    for row, name in zip(rows[1:], available_profiles(), strict=True):
        assert row.endswith(str(load_profile(name).recipe))


def test_the_list_as_json(edgewise):
    value = json.loads(edgewise("profiles", "--json").out)
    assert [entry["name"] for entry in value] == list(available_profiles())
    for entry in value:
        expected = load_profile(entry["qualified_name"]).as_dict()
        assert {"qualified_name": entry["name"], **json.loads(json.dumps(expected))} == entry


@pytest.mark.parametrize("name", [*available_profiles(), "raspberry_pi_5:16gb"])
def test_one_board_with_every_field(edgewise, name):
    value = json.loads(edgewise("profiles", name, "--json").out)
    assert value["qualified_name"] == name
    text = edgewise("profiles", name).out

    def leaves(fields):
        for key, inner in fields.items():
            if isinstance(inner, dict):
                yield from leaves(inner)
            else:
                yield key, inner

    for key, inner in leaves(value):
        assert key in text
        if isinstance(inner, str) and inner:
            assert inner in text


def test_an_unknown_board_is_met_with_the_nearest(edgewise):
    assert "did you mean 'jetson_nano'?" in edgewise("profiles", "jetson_nan").mistake()
    assert "'1tb' is unknown" in edgewise("profiles", "x86_64:1tb").mistake()


def test_a_file_of_the_users_own(edgewise, tmp_path):
    from edgewise import firmware_profiles

    own = tmp_path / "own.toml"
    source = firmware_profiles.loading._FOLDER / "x86_64.toml"
    own.write_text(source.read_text().replace('name = "x86_64"', 'name = "my_own"', 1))
    assert json.loads(edgewise("profiles", own, "--json").out)["name"] == "my_own"
    own.write_text("threads = 'two'")
    assert "own.toml" in edgewise("profiles", own).mistake()
