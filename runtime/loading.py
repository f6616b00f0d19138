"""Loading a bundle: checks, tokenizer, engine, and the kind of model that its family is.

Workflow: `load` opens and checks a bundle, picks the engine that the manifest names, and gives what
its family is: `LanguageModel`, `VisionLanguageModel`, `SequenceModel` or `EncoderModel`. A new
family is a new branch.

Rule: the engine is begun as early as can be, for laying out a graph takes the longest and leaves
the interpreter to everything else: modules, template, tokenizer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from edgewise import runtime  # imports each kind of model when it is named
from edgewise.common.errors import EdgewiseError
from edgewise.common.process_memory import give_freed_memory_back
from edgewise.runtime.bundle import Bundle, Manifest, open_bundle
from edgewise.runtime.cache_folder import PREFIX_SUFFIX, cached_files
from edgewise.runtime.chunks import PREFILL_CHUNK
from edgewise.runtime.engines import EngineFactory, engine_factory
from edgewise.runtime.options import OptionsError
from edgewise.runtime.versions import check_minimum_versions

if TYPE_CHECKING:
    from edgewise.runtime.chat import ChatTemplate
    from edgewise.runtime.encoder_model import EncoderModel
    from edgewise.runtime.language_model import LanguageModel
    from edgewise.runtime.prefix_store import PrefixStore
    from edgewise.runtime.sequence_model import SequenceModel
    from edgewise.runtime.tokenizer import Tokenizer
    from edgewise.runtime.vision_language_model import VisionLanguageModel

    AnyModel = LanguageModel | VisionLanguageModel | SequenceModel | EncoderModel

THREADS_MAX = 1024
SLOTS_MAX = 64


def load(
    bundle_path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    verify_hashes: bool = False,
    context_length: int | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
    slots: int = 1,
    cache_bytes: int | None = None,
    within_plan: bool = False,
    prefix_bytes: int = 0,
    prompt_lookup: bool = False,
    draft_model: str | os.PathLike[str] | None = None,
    backend: EngineFactory | None = None,
) -> AnyModel:
    """Load a bundle.

    Args:
        bundle_path: The bundle's folder.
        threads: Threads that compute; None: as the profile says, but no more than the machine has
            physical cores.
        verify_hashes: Compare the SHA-256 of every file first.
        context_length: Tokens that prompt and answer may have together (of an encoder a text, of
            an encoder-decoder the answer); None: all that the bundle allows. Less takes less
            memory.
        prefill_chunk: Tokens of a decoder's prompt that are computed at once.
        slots: Sequences that the cache holds at once: answers of a decoder that are computed
            together, or the beams of a search. Each takes memory of its own, as it fills.
        cache_bytes: What the keys and values of all slots of a decoder may take together; None:
            what they take when full.
        within_plan: Where ``cache_bytes`` is None: all slots of a decoder together take no more
            than one whole context, for which an export plans. What does not fit besides waits.
        prefix_bytes: What beginnings of prompts may take whose slot went to another prompt, so that
            a decoder need not compute them again. Those that were saved beside the bundle are
            known in any case and take nothing.
        prompt_lookup: Whether a decoder drafts what followed the last words where they stood
            before, and checks several such tokens at once. It pays where answers quote their
            prompt, is left alone where it does not, and changes no answer.
        draft_model: A smaller bundle with the same vocabulary that drafts in the same way.
        backend: Another engine than the manifest names.

    Returns:
        A `LanguageModel` for a decoder, a `VisionLanguageModel` for one that sees, a
        `SequenceModel` for an encoder-decoder, an `EncoderModel` for an encoder.

    Raises:
        BundleError: The bundle is damaged, or something it needs is missing or too old.
        OptionsError: An argument is outside what is accepted.
        TokenizerError: The tokenizer does not give the ids the model was exported with.
        ChatError: The chat template does not render as where the bundle was exported.
        ModelError: The bundle is for another program.
        BackendError: The engine can not load the graph.
    """
    bundle = open_bundle(bundle_path, verify_hashes=verify_hashes)
    manifest = bundle.manifest
    capacity = _within("context_length", context_length, manifest.context_length)
    prefill_chunk = _within("prefill_chunk", prefill_chunk, 2**31 - 1)
    _within("slots", slots, SLOTS_MAX)
    if cache_bytes is not None:
        _within("cache_bytes", cache_bytes, 2**63 - 1)
    if prefix_bytes != 0:
        _within("prefix_bytes", prefix_bytes, 2**63 - 1)
    if threads is None:
        threads = _default_threads(manifest)
    else:
        _within("threads", threads, THREADS_MAX)
    if (prompt_lookup or draft_model is not None) and manifest.family != "decoder":
        raise OptionsError(
            f"drafts are asked for, and {manifest.model_id} is an {manifest.family}; accepted: a "
            "decoder that reads text alone"
        )
    check_minimum_versions(manifest.minimum_versions)
    sizes = {"threads": threads, "capacity": capacity}
    if manifest.family != "encoder":
        sizes["slots"] = slots
    engine, tokenizer, template = load_parts(bundle, backend, **sizes)
    if manifest.family == "encoder":
        return runtime.EncoderModel(bundle, engine, tokenizer)
    if manifest.family == "encoder_decoder":
        return runtime.SequenceModel(bundle, engine, tokenizer, template)
    if cache_bytes is None and within_plan:
        cache_bytes = engine.slot_bytes(engine.capacity)
    store = _known_beginnings(bundle, prefix_bytes)
    if manifest.family == "vision_language":
        return runtime.VisionLanguageModel(
            bundle,
            engine,
            tokenizer,
            template,
            prefill_chunk=prefill_chunk,
            cache_bytes=cache_bytes,
            store=store,
        )
    drafting = None
    if prompt_lookup or draft_model is not None:
        from edgewise.runtime.draft_loading import (  # noqa: PLC0415  # few bundles are loaded so
            open_drafting,
        )

        drafting = open_drafting(
            bundle,
            prompt_lookup=prompt_lookup,
            draft_model=draft_model,
            threads=threads,
            capacity=capacity,
        )
    return runtime.LanguageModel(
        bundle,
        engine,
        tokenizer,
        template,
        prefill_chunk=prefill_chunk,
        cache_bytes=cache_bytes,
        store=store,
        drafting=drafting,
    )


def load_parts(
    bundle: Bundle, factory: EngineFactory | None = None, *, threads: int, **sizes: int
) -> tuple[Any, Tokenizer, ChatTemplate | None]:
    """Load what a model is made of.

    Args:
        bundle: The opened bundle.
        factory: Makes its engine; None: as the manifest says, keeping what it packs.
        threads: Threads that compute.
        sizes: ``capacity`` and ``slots``, as the engine takes them.

    Returns:
        The engine, the tokenizer, and the chat template where there is one.

    Raises:
        EdgewiseError: As `load`.
    """
    from edgewise.runtime.chat import ChatTemplate  # noqa: PLC0415  # not before it is needed
    from edgewise.runtime.tokenizer import Tokenizer  # noqa: PLC0415

    make = engine_factory(bundle.manifest, keep_packed=True) if factory is None else factory

    def load_engine() -> Any:
        try:
            return make(bundle, threads=threads, **sizes)
        except EdgewiseError:
            # A file that is not what was exported explains more than what the engine makes of it.
            open_bundle(bundle.path, verify_hashes=True)
            raise

    # One after the other, and all modules before: the engine takes up the memory that they leave.
    template = ChatTemplate.open(bundle)
    if bundle.manifest.family == "decoder":
        runtime.LanguageModel  # noqa: B018  # its modules
    tokenizer = Tokenizer.open(bundle)
    give_freed_memory_back()
    engine = load_engine()
    give_freed_memory_back()
    return engine, tokenizer, template


def _known_beginnings(bundle: Bundle, budget_bytes: int) -> PrefixStore:
    from edgewise.runtime.prefix_store import PrefixStore  # noqa: PLC0415  # see `load_parts`

    store = PrefixStore(budget_bytes)
    if cached_files(bundle.path, f"*{PREFIX_SUFFIX}"):
        from edgewise.runtime.prefix_files import saved  # noqa: PLC0415  # few bundles have any

        for prefix in saved(bundle):
            store.add_saved(prefix.tokens, prefix.read_cache)
    return store


def _default_threads(manifest: Manifest) -> int:
    from edgewise.firmware_profiles.detect import (  # noqa: PLC0415  # not needed with threads given
        physical_cores,
    )

    return max(1, min(manifest.threads, physical_cores()))


def _within(name: str, value: int | None, most: int) -> int:
    if value is None:
        return most
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise OptionsError(f"{name} is {value!r}; accepted: a whole number from 1 to {most}")
    return value
