"""``edgewise inspect``: what a bundle says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, figures
from edgewise.cli.export import verification_line
from edgewise.cli.parameters import bundle_argument, examples, json_option

if TYPE_CHECKING:
    from edgewise.runtime import Bundle, Manifest

ELEMENT_BYTES = {"float32": 4, "float16": 2, "int8": 1}


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
    cache = manifest.cache
    if cache is None:
        return 0
    elements = 2 * cache.layers * cache.key_value_heads * cache.head_size  # keys and values
    return elements * ELEMENT_BYTES[cache.dtype]


def bundle_json(bundle: Bundle, *, hashes_verified: bool) -> dict[str, Any]:
    """Return a bundle in the types of JSON: the whole manifest, and what follows from it."""
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "bytes": sum(file.bytes for file in manifest.files),
        "hashes_verified": hashes_verified,
        "cache_bytes_per_token": cache_bytes_per_token(manifest),
        "cache_bytes": cache_bytes_per_token(manifest) * manifest.context_length,
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
            ("vocabulary", f"{manifest.vocabulary_size} tokens"),
            ("tasks", ", ".join(manifest.tasks)),
            ("from", _origin(manifest)),
            ("license", manifest.origin.license or "not stated"),
        ],
    )
    console.write_section(
        "recipe",
        [("text", manifest.recipe), *manifest.formats.items()],
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


def _show_cache(manifest: Manifest) -> None:
    cache = manifest.cache
    if cache is None:
        console.write_section("cache", [("context", f"{manifest.context_length} tokens")])
        return
    per_token = cache_bytes_per_token(manifest)
    console.write_section(
        "cache",
        [
            ("context", f"{manifest.context_length} tokens"),
            ("layout", f"[{', '.join(cache.axes)}] {cache.dtype}"),
            ("layers", f"{cache.layers}, each with keys and values"),
            ("heads", f"{cache.key_value_heads} of {cache.head_size}"),
            ("a token", figures.size(per_token)),
            ("full", figures.size(per_token * manifest.context_length)),
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
            ("probes", figures.plural(len(manifest.probes), "text")),
            ("template", "none" if manifest.chat is None else "yes, with a rendered sample"),
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
