"""``edgewise inspect``: what a bundle says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, figures
from edgewise.cli.export import calibration_line, verification_line
from edgewise.cli.parameters import bundle_argument, examples, json_option

if TYPE_CHECKING:
    from edgewise.runtime import Bundle, Manifest

LABELS_SHOWN = 12
POOLING_SHOWN = {"mean": "mean of all tokens' states", "first": "the first token's state"}


@click.command(
    short_help="Show what a bundle holds, and whether it is whole.",
    epilog=examples(
        "edgewise inspect smollm2",
        "edgewise inspect smollm2 --verify-hashes",
        "edgewise inspect smollm2 --json | jq .manifest.recipe",
    ),
)
@bundle_argument
@click.option("--verify-hashes", is_flag=True, help="Compare the SHA-256 of every file as well.")
@json_option
def inspect(*, bundle: Path, verify_hashes: bool, as_json: bool) -> None:
    """Show what is in the folder BUNDLE, and whether its files are whole."""
    from edgewise.runtime import open_bundle

    with console.status("Reading every file") if verify_hashes else console.status("Reading"):
        opened = open_bundle(bundle, verify_hashes=verify_hashes)
    if as_json:
        console.write_json(bundle_json(opened, hashes_verified=verify_hashes))
    else:
        show(opened, hashes_verified=verify_hashes)


def cache_bytes_per_token(manifest: Manifest) -> int:
    """Return what one token adds to the key/value cache, in bytes; an encoder keeps none."""
    from edgewise.firmware_profiles.vocabulary import CACHE_DTYPE_BYTES

    cache = manifest.cache
    if cache is None:
        return 0
    elements = 2 * cache.layers * cache.key_value_heads * cache.head_size  # keys and values
    return elements * CACHE_DTYPE_BYTES[cache.dtype]


def cross_cache_bytes_per_token(manifest: Manifest) -> int:
    """Return what a token of an encoder-decoder's source keeps for its decoder, in bytes.

    Its layers attend to the source with as many heads of the same size, in float32.
    """
    from edgewise.firmware_profiles.vocabulary import CACHE_DTYPE_BYTES

    cache = manifest.cache
    if cache is None or manifest.source_length is None:
        return 0
    elements = 2 * cache.layers * cache.key_value_heads * cache.head_size  # keys and values
    return elements * CACHE_DTYPE_BYTES["float32"]


def bundle_json(bundle: Bundle, *, hashes_verified: bool) -> dict[str, Any]:
    """Return a bundle in the types of JSON: the whole manifest, and what follows from it."""
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "bytes": sum(file.bytes for file in manifest.files),
        "hashes_verified": hashes_verified,
        "cache_bytes_per_token": cache_bytes_per_token(manifest),
        "cache_bytes": cache_bytes_per_token(manifest) * manifest.context_length,
        "cross_cache_bytes": cross_cache_bytes_per_token(manifest) * (manifest.source_length or 0),
        "manifest": dataclasses.asdict(manifest),
    }


def show(bundle: Bundle, *, hashes_verified: bool) -> None:
    """Write what a bundle holds for people."""
    manifest = bundle.manifest
    console.write_section(
        "model",
        [
            ("name", manifest.model_id),
            ("architecture", manifest.architecture),
            ("parameters", figures.parameters(manifest.parameters)),
            ("family", manifest.family.replace("_", "-")),
            ("vocabulary", _vocabulary(manifest)),
            ("tasks", ", ".join((*manifest.tasks, *manifest.prefixes))),
            *_abilities(manifest),
            ("from", _origin(manifest)),
            ("license", manifest.origin.license or "not stated"),
        ],
    )
    console.write_section(
        "recipe",
        [
            ("text", manifest.recipe),
            *manifest.formats.items(),
            *calibration_line(
                None if manifest.calibration is None else dataclasses.asdict(manifest.calibration)
            ),
        ],
    )
    console.write_section(
        "runs on",
        [
            ("profile", manifest.profile),
            ("runtime", manifest.runtime),
            ("threads", str(manifest.threads)),
            ("providers", ", ".join(manifest.execution_providers) or "none"),
            ("needs", _versions(manifest)),
        ],
    )
    _show_cache(manifest)
    _show_tokens(manifest)
    console.write_section(
        f"files ({'sizes and hashes' if hashes_verified else 'sizes'} agree with the manifest)",
        [
            (file.role, file.path, figures.size(file.bytes), file.sha256[:16])
            for file in manifest.files
        ],
    )
    found = manifest.verification
    console.write_section("verified", [(_verification(found),)])


def _vocabulary(manifest: Manifest) -> str:
    padding = manifest.vocabulary_size - manifest.sampled_vocabulary
    rows = f", {padding} of them padding that is never chosen" if padding else ""
    return f"{manifest.vocabulary_size} tokens{rows}"


def _abilities(manifest: Manifest) -> list[tuple[str, str]]:
    """Describe what belongs to some tasks alone."""
    rows = []
    if manifest.labels:
        shown = ", ".join(manifest.labels[:LABELS_SHOWN])
        more = len(manifest.labels) - LABELS_SHOWN
        rows.append(("labels", f"{shown}, and {more} more" if more > 0 else shown))
    if manifest.pooling is not None:
        rows.append(("vector", POOLING_SHOWN[manifest.pooling]))
    if manifest.image is not None:
        image = manifest.image
        rows.append(("image", f"{image.size} x {image.size} pixels, {image.tokens} tokens"))
    return rows


def _show_cache(manifest: Manifest) -> None:
    cache = manifest.cache
    if cache is None:
        console.write_section("cache", [("context", f"{manifest.context_length} tokens, no cache")])
        return
    per_token = cache_bytes_per_token(manifest)
    source = []
    if manifest.source_length is not None:
        cross = cross_cache_bytes_per_token(manifest)
        source = [
            ("source", f"{manifest.source_length} tokens"),
            ("a source token", figures.size(cross)),
            ("full source", figures.size(cross * manifest.source_length)),
        ]
    console.write_section(
        "cache",
        [
            ("context", f"{manifest.context_length} tokens"),
            ("layout", f"[{', '.join(cache.axes)}] {cache.dtype}"),
            ("layers", f"{cache.layers}, each with keys and values"),
            ("heads", f"{cache.key_value_heads} of {cache.head_size}"),
            ("a token", figures.size(per_token)),
            ("full", figures.size(per_token * manifest.context_length)),
            *source,
        ],
    )


def _show_tokens(manifest: Manifest) -> None:
    tokens = manifest.tokens
    advised = {
        name: value for name, value in dataclasses.asdict(manifest.defaults).items() if value
    }
    console.write_section(
        "tokens",
        [
            ("beginning", _token(tokens.beginning, tokens.beginning_text)),
            ("put first", "yes" if tokens.add_beginning else "no"),
            ("end", ", ".join(map(str, tokens.end)) or "none"),
            ("padding", _token(tokens.padding, None)),
            *(
                (name, str(token))
                for name, token in (
                    ("start", tokens.start),
                    ("mask", tokens.mask),
                    ("separator", tokens.separator),
                )
                if token is not None
            ),
            ("probes", figures.plural(len(manifest.probes), "text")),
            ("template", "none" if manifest.chat is None else "yes, with a rendered sample"),
            ("stop texts", ", ".join(map(repr, manifest.stop)) or "none"),
            (
                "sampling",
                ", ".join(f"{name} {value}" for name, value in advised.items()) or "greedy",
            ),
        ],
    )


def _origin(manifest: Manifest) -> str:
    origin = manifest.origin
    revision = f" at {origin.revision}" if origin.revision else ""
    return f"{origin.kind} {origin.name}{revision} ({origin.file_type})"


def _versions(manifest: Manifest) -> str:
    wanted = [f"{name} {version}" for name, version in manifest.minimum_versions.items()]
    return ", ".join(wanted) or "nothing"


def _token(token: int | None, text: str | None) -> str:
    if token is None:
        return "none"
    return str(token) if text is None else f"{token} {text!r}"


def _verification(found: object) -> str:
    """Write the figures, of which an older or foreign exporter may have kept others."""
    if not isinstance(found, dict):
        return "no"
    try:
        return verification_line(found)
    except (KeyError, TypeError, ValueError):
        return ", ".join(f"{name} {value}" for name, value in found.items())
