"""Manifests of older versions: those in tests/data/manifests load for ever."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.runtime.bundle import FORMAT_VERSION, BundleError, Calibration, SpecialTokens
from edgewise.runtime.manifest import manifest_from_json, manifest_to_json

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"
VERSION_1, VERSION_2 = MANIFESTS / "version_1.json", MANIFESTS / "version_2.json"


@pytest.mark.parametrize("older", [VERSION_1, VERSION_2])
def test_an_older_version_becomes_what_the_newest_says_of_the_same_bundle(manifest_maker, older):
    assert manifest_from_json(older.read_bytes(), "x") == manifest_maker()


def test_what_was_converted_is_written_as_the_newest_version():
    content = manifest_to_json(manifest_from_json(VERSION_1.read_bytes(), "x"))
    written = json.loads(content)
    assert written["format_version"] == FORMAT_VERSION == 3
    assert "task" not in written
    assert (written["family"], written["tasks"]) == ("decoder", ["generate"])
    assert (written["vocabulary_size"], written["sampled_vocabulary"]) == (100, 100)
    assert written["outputs"] == ["logits"]
    assert written["tokens"]["separators_between"] == 1
    for name in ("source_length", "pooling", "image", "calibration"):
        assert written[name] is None


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"task": "classify"}, "family is decoder, which does not classify; accepted: generate"),
        ({"task": 7}, "manifest.tasks[0] is 7; accepted"),
        ({"task": None}, "manifest.tasks is missing"),
        ({"vocabulary_size": None}, "manifest.vocabulary_size is missing"),
        ({"tokens": [1]}, "manifest.tokens must be an object, not a list"),
        ({"labels": ["a"]}, "manifest.labels is unknown in version 1"),
        ({"family": "encoder"}, "manifest.family is unknown in version 1"),
    ],
)
def test_faults_of_version_1_are_found(change, clause):
    value = json.loads(VERSION_1.read_bytes()) | change
    value = {name: field for name, field in value.items() if field is not None or name == "chat"}
    with pytest.raises(BundleError) as caught:
        manifest_from_json(json.dumps(value).encode(), "x")
    assert clause in str(caught.value)


def test_a_version_2_manifest_may_lack_what_came_while_it_was_new(manifest_maker):
    value = json.loads(VERSION_2.read_bytes())
    del value["stop"], value["cache"]["update"]
    for name in ("ends_source", "forced_first", "forced_last"):
        del value["tokens"][name]
    assert manifest_from_json(json.dumps(value).encode(), "x") == manifest_maker()
    del value["tokens"]["mask"]
    with pytest.raises(BundleError, match=r"manifest\.tokens\.mask is missing"):
        manifest_from_json(json.dumps(value).encode(), "x")


def test_a_version_2_manifest_has_no_field_of_version_3():
    value = json.loads(VERSION_2.read_bytes()) | {"calibration": None}
    with pytest.raises(BundleError, match=r"manifest\.calibration is unknown in version 2"):
        manifest_from_json(json.dumps(value).encode(), "x")


def test_a_calibration_is_written_and_read(manifest_maker):
    done = Calibration("error feedback", "0" * 64, 2048, 210, {"a.weight": "int8-block32"})
    manifest = manifest_maker(calibration=done)
    assert manifest_from_json(manifest_to_json(manifest), "x") == manifest
    value = json.loads(manifest_to_json(manifest))
    del value["calibration"]["tokens"]
    with pytest.raises(BundleError, match=r"manifest\.calibration\.tokens is missing"):
        manifest_from_json(json.dumps(value).encode(), "x")


def test_a_newer_manifest_has_no_field_of_version_1(manifest_maker):
    value = json.loads(manifest_to_json(manifest_maker())) | {"task": "generate"}
    with pytest.raises(BundleError, match=r"manifest\.task is unknown"):
        manifest_from_json(json.dumps(value).encode(), "x")


def test_new_special_tokens_are_written_and_read(manifest_maker):
    tokens = SpecialTokens(1, (2,), None, False, "<s>", "</s>", 3, 4, 5, 2)
    manifest = manifest_maker(tokens=tokens)
    assert manifest_from_json(manifest_to_json(manifest), "x") == replace(manifest, tokens=tokens)
