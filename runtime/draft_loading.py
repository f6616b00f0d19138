"""What drafts for a loaded decoder: a look at its own text, or a smaller bundle."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from edgewise.runtime.bundle import Bundle, open_bundle
from edgewise.runtime.drafting import Drafter, ModelDrafter, PromptLookup
from edgewise.runtime.engines import engine_factory
from edgewise.runtime.options import OptionsError
from edgewise.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Drafting:
    """Where an answer gets its drafter from."""

    new_drafter: Callable[[], Drafter]
    close: Callable[[], None] = lambda: None  # gives the memory of what drafts back


def open_drafting(
    bundle: Bundle,
    *,
    prompt_lookup: bool,
    draft_model: str | os.PathLike[str] | None,
    threads: int,
    capacity: int,
) -> Drafting | None:
    """Prepare what drafts.

    Args:
        bundle: Of the decoder that is drafted for.
        prompt_lookup: Whether its own text is looked through.
        draft_model: A smaller bundle's folder.
        threads: Threads that compute one step of the smaller model.
        capacity: Tokens that prompt and answer may have together.

    Returns:
        None: nothing drafts.

    Raises:
        OptionsError: Both are asked for, or the smaller model has another vocabulary.
        EdgewiseError: As `edgewise.runtime.load`, of the smaller bundle.
    """
    if draft_model is None:
        return Drafting(PromptLookup) if prompt_lookup else None
    if prompt_lookup:
        raise OptionsError("both prompt_lookup and draft_model are given; accepted: one of them")
    smaller = open_bundle(draft_model)
    _check_vocabulary(bundle, smaller)
    engine = engine_factory(smaller.manifest, keep_packed=True)(
        smaller,
        threads=threads,
        slots=1,
        capacity=min(capacity, smaller.manifest.context_length),
    )
    drafter = ModelDrafter(engine)
    return Drafting(lambda: drafter, drafter.close)


def _check_vocabulary(bundle: Bundle, smaller: Bundle) -> None:
    """Refuse a model whose ids mean something else."""
    manifest, other = bundle.manifest, smaller.manifest
    if other.family != "decoder" or "generate" not in other.tasks:
        raise OptionsError(
            f"draft_model is {smaller.path}, an {other.family} made to {', '.join(other.tasks)}; "
            "accepted: a decoder made to generate"
        )
    hashes = [
        file.sha256
        for manifest_ in (manifest, other)
        for file in manifest_.files
        if file.role == "tokenizer"
    ]
    same = hashes[0] == hashes[1] or _encodes_alike(bundle, smaller)
    if not same or other.vocabulary_size < manifest.sampled_vocabulary:
        raise OptionsError(
            f"draft_model is {smaller.path}, whose tokens are not those of {manifest.model_id}; "
            "accepted: a smaller model with the same vocabulary, as others of its family have"
        )


def _encodes_alike(bundle: Bundle, smaller: Bundle) -> bool:
    tokenizer = Tokenizer.open(smaller)
    return smaller.manifest.tokens == bundle.manifest.tokens and all(
        tokenizer.encode(probe.text) == list(probe.ids) for probe in bundle.manifest.probes
    )
