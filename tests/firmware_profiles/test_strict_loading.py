"""A faulty file is refused in one message that names every fault and the nearest right name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise.common.errors import EdgewiseError
from edgewise.firmware_profiles import Profile, ProfileError, load_profile, loading
from edgewise.firmware_profiles.loading import SCHEMA
from edgewise.firmware_profiles.strict import Each, Kind, Schema

Parse = Callable[[dict[str, Any]], Profile]


def test_the_untouched_table_is_the_profile(content: dict[str, Any], parse: Parse) -> None:
    assert parse(content) == load_profile("raspberry_pi_5")


def test_one_error_names_unknown_missing_and_ill_typed_fields(
    content: dict[str, Any], parse: Parse
) -> None:
    content["thread"] = content.pop("threads")
    content["cpu"]["isa"] = 64
    content["cpu"]["cores"]["litle"] = 0
    content["memory"]["variants"]["4gb"]["usable"] = 1
    content["runtimes"]["onnx"]["recipe"]["mpl"] = "int8"
    content["runtimes"]["tflite"]["python"] = ["3.11", 3.12]
    content["max_context"] = True
    del content["os"]
    with pytest.raises(ProfileError) as caught:
        parse(content)
    assert isinstance(caught.value, EdgewiseError)
    assert sorted(caught.value.problems) == sorted(
        [
            "threads is missing (an integer)",
            "thread is not a field of a profile (did you mean 'threads'?)",
            "cpu.isa must be a text, not 64",
            "cpu.cores.litle is not a field of a profile (did you mean 'little'?)",
            "memory.variants.4gb.usable is not a field of a profile (did you mean 'usable_bytes'?)",
            "runtimes.onnx.recipe.mpl is not a field of a profile (did you mean 'mlp'?)",
            "runtimes.tflite.python must be a list of texts, not ['3.11', 3.12]",
            "max_context must be an integer, not True",
            "os is missing (a table)",
        ]
    )
    message = str(caught.value)
    assert message.startswith("board.toml: 9 problems:")
    assert all(problem in message for problem in caught.value.problems)


def paths_of(schema: Schema, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths = []
    for field, expected in schema.items():
        here = (*prefix, field)
        paths.append(here)
        if isinstance(expected, Each):
            name = "8gb" if field == "variants" else "onnx"
            paths += paths_of(expected.schema, (*here, name))
        elif not isinstance(expected, Kind):
            paths += paths_of(expected, here)
    return paths


ALL_FIELDS = paths_of(SCHEMA)


def test_the_schema_has_all_fields_of_a_file(content: dict[str, Any]) -> None:
    assert len(ALL_FIELDS) == 41
    assert set(content) == set(SCHEMA)


@pytest.mark.parametrize("path", ALL_FIELDS, ids=".".join)
def test_every_field_is_needed(
    path: tuple[str, ...], content: dict[str, Any], parse: Parse
) -> None:
    table = content
    for part in path[:-1]:
        table = table[part]
    del table[path[-1]]
    with pytest.raises(ProfileError, match=rf"^board\.toml: {'.'.join(path)} is missing"):
        parse(content)


@pytest.mark.parametrize("path", ALL_FIELDS, ids=".".join)
def test_every_field_is_type_checked(
    path: tuple[str, ...], content: dict[str, Any], parse: Parse
) -> None:
    table = content
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = 1.5
    with pytest.raises(ProfileError, match=rf"^board\.toml: {'.'.join(path)} must be .*not 1\.5"):
        parse(content)


def test_a_runtime_or_variant_that_is_no_table_is_refused(
    content: dict[str, Any], parse: Parse
) -> None:
    content["runtimes"]["onnx"] = "yes"
    content["memory"]["variants"]["8gb"] = 8
    with pytest.raises(ProfileError) as caught:
        parse(content)
    assert caught.value.problems == (
        "memory.variants.8gb must be a table, not 8",
        "runtimes.onnx must be a table, not 'yes'",
    )


def test_a_path_is_read_and_may_carry_a_variant(tmp_path: Path) -> None:
    source = Path(loading.__file__).parent / "raspberry_pi_5.toml"
    copied = tmp_path / "my_board.toml"
    copied.write_text(source.read_text().replace("raspberry_pi_5", "my_board"))
    assert load_profile(str(copied)).name == "my_board"
    assert load_profile(f"{copied}:16gb").memory.variant == "16gb"


def test_files_that_can_not_be_read_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"can not be read: No such file.*raspberry_pi_5"):
        load_profile(str(tmp_path / "absent.toml"))
    with pytest.raises(ProfileError, match=r"can not be read: Is a directory"):
        load_profile(str(tmp_path) + "/")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n")
    with pytest.raises(ProfileError, match=r"broken\.toml is not a TOML file"):
        load_profile(str(broken))
    broken.write_bytes(b'name = "\xff"\n')
    with pytest.raises(ProfileError, match=r"broken\.toml is not a TOML file in UTF-8"):
        load_profile(str(broken))
