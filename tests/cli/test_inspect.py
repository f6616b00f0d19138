"""``edgewise inspect``: tables and JSON of a bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil

from edgewise.runtime import open_bundle
from edgewise.runtime.backends.fake_bundle import (
    write_fake_bundle,
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
)
from edgewise.runtime.options import SamplingDefaults


def test_json_is_the_manifest_and_what_follows_from_it(edgewise, bundle, check_shape):
    result = edgewise("inspect", bundle, "--json")
    assert result.err == ""
    value = json.loads(result.out)
    stored = json.loads((bundle / "manifest.json").read_text())
    check_shape(
        {key: inner for key, inner in value.items() if key != "manifest"},
        {
            "path": str,
            "bytes": int,
            "hashes_verified": bool,
            "cache_bytes_per_token": int,
            "cache_bytes": int,
            "cross_cache_bytes": int,
        },
    )
    assert value["manifest"] == stored
    assert value["path"] == str(bundle.resolve())
    assert value["hashes_verified"] is False
    assert value["cache_bytes_per_token"] == 2 * 4  # one layer, one head of one float32
    assert value["cache_bytes"] == 2 * 4 * 256
    assert value["bytes"] == sum(file.bytes for file in open_bundle(bundle).manifest.files)


def test_every_part_of_the_manifest_has_its_place(edgewise, bundle):
    result = edgewise("inspect", bundle)
    assert result.code == 0
    headings = [line for line in result.out.splitlines() if not line.startswith(" ")]
    assert [heading.split()[0] for heading in headings] == [
        "model",
        "recipe",
        "runs",
        "cache",
        "tokens",
        "files",
        "verified",
    ]
    assert "sizes agree with the manifest" in result.out
    assert "[batch, key_value_head, position, head_size] float32" in result.out
    assert "context  256 tokens" in result.out


def test_another_content_of_the_same_size_is_found_by_hashes_only(edgewise, bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    graph = copy / "graph.json"
    graph.write_bytes(graph.read_bytes()[:-1] + b" ")
    assert edgewise("inspect", copy).code == 0
    message = edgewise("inspect", copy, "--verify-hashes").mistake()
    assert "graph.json has another content" in message
    assert edgewise("inspect", bundle, "--verify-hashes").code == 0
    assert json.loads(edgewise("inspect", bundle, "--verify-hashes", "--json").out)[
        "hashes_verified"
    ]


def test_figures_of_another_exporter_are_shown_as_they_are(edgewise, bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["verification"] = {"perplexity": 12.5}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "perplexity 12.5" in edgewise("inspect", copy).out


def test_advised_sampling_is_shown(edgewise, tmp_path):
    folder = write_fake_bundle(tmp_path / "b", defaults=SamplingDefaults(temperature=0.7, top_k=40))
    assert "temperature 0.7, top_k 40" in edgewise("inspect", folder).out
    assert dataclasses.asdict(open_bundle(folder).manifest.defaults)["top_k"] == 40


def test_an_encoder_shows_its_labels_and_no_cache(edgewise, tmp_path):
    labels = tuple(f"label {number}" for number in range(14))
    folder = write_fake_encoder_bundle(tmp_path / "b", tasks=("classify", "embed"), labels=labels)
    out = edgewise("inspect", folder).out
    assert "family        encoder\n" in out
    assert "tasks         classify, embed\n" in out
    assert "label 10, label 11, and 2 more\n" in out
    assert "vector        mean of all tokens' states\n" in out
    assert "context  64 tokens, no cache\n" in out
    assert "mask        3\n" in out
    assert json.loads(edgewise("inspect", folder, "--json").out)["cache_bytes"] == 0


def test_an_encoder_decoder_shows_what_a_source_keeps(edgewise, tmp_path):
    folder = write_fake_sequence_bundle(tmp_path / "b", stop=("\n",))
    out = edgewise("inspect", folder).out
    assert "family        encoder-decoder\n" in out
    assert "source          128 tokens\n" in out
    assert "full source     1.0 KiB\n" in out
    assert "stop texts  '\\n'\n" in out
    value = json.loads(edgewise("inspect", folder, "--json").out)
    assert value["cross_cache_bytes"] == 128 * 2 * 4


def test_padding_rows_of_the_vocabulary_are_shown(edgewise, tmp_path):
    folder = write_fake_bundle(tmp_path / "b", sampled_vocabulary=250)
    assert (
        "260 tokens, 10 of them padding that is never chosen\n" in edgewise("inspect", folder).out
    )
