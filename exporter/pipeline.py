"""Checkpoint to bundle, in one readable function.

Workflow: open the checkpoint, settle a plan, refuse what does not fit, round the weights by a text
if one is given, describe it all in the manifest, build the graph while weights stream through the
quantizer into the weights file, hold the result against the reference, publish. What is quickly
found to be wrong is found before the weights are read. Everything happens in a temporary folder
that is renamed at the end: an export that fails leaves nothing behind, and an older bundle stays as
it was.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgewise.common.errors import EdgewiseError
from edgewise.common.files import folder_written_atomically, write_atomically
from edgewise.exporter.budget import MemoryBudget, check_fit, planned_memory
from edgewise.exporter.calibration.cache_steps import with_cache_scales
from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.calibration.prepare import prepare
from edgewise.exporter.calibration.text import CalibrationFile
from edgewise.exporter.checkpoint import Checkpoint, open_checkpoint
from edgewise.exporter.comparison import Verification, failure
from edgewise.exporter.description import describe, tokenizer_config
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.planning import make_plan
from edgewise.exporter.prompts.choosing import apply_prompts
from edgewise.exporter.targets import Loaded, Progress, Target, find_target
from edgewise.exporter.traced.tracing import TracingError, find_interpreter
from edgewise.exporter.verify import MOST_TOKENS, verify
from edgewise.firmware_profiles import Profile, load_profile, physical_cores
from edgewise.runtime.bundle import (
    MANIFEST_NAME,
    Bundle,
    BundleFile,
    describe_file,
    open_bundle,
    write_manifest,
)
from edgewise.runtime.cache_folder import is_kept_for_speed

UNMEASURED = "0" * 64  # the hash of a file that is not written yet


class OutputError(EdgewiseError):
    """The output can not be written, or holds something that an export must not replace."""


@dataclass(frozen=True)
class ExportReport:
    """What an export made."""

    bundle: Bundle
    plan: ExportPlan
    verification: Verification | None
    memory: MemoryBudget  # on the board; with ``force`` it may not fit


def export(
    checkpoint: str,
    *,
    profile: str | Profile,
    output: str | Path,
    runtime: str | None = None,
    recipe: str | None = None,
    context_length: int | None = None,
    cache_dtype: str | None = None,
    revision: str | None = None,
    prompt: str | None = None,
    via: str | None = None,
    optimum_python: str | os.PathLike[str] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    budget: int | None = None,
    drafts: bool = False,
    verification: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint for a board.

    Args:
        checkpoint: A Hugging Face folder, a GGUF file, ``package:NAME`` or a Hub id.
        profile: A profile, or the name of one.
        output: The bundle's folder. An older bundle there is replaced; anything else is refused.
        runtime: "onnx", "tflite" or "litertlm", or None for the profile's choice.
        recipe: A recipe's text, or None for the profile's choice, as `make_plan` says.
        context_length: Tokens of cache, or None for the most that model and profile allow.
        cache_dtype: How keys and values are kept, "float32", "float16" or "int8", or None for the
            profile's choice, as `make_plan` says.
        revision: Branch, tag or commit of a Hub id.
        prompt: The name of a prompt to use instead of the checkpoint's chat template; None for the
            checkpoint's own, or that of its family if there is none.
        via: "optimum" to let Hugging Face Optimum trace the graph, for an architecture that has no
            definition here; None to build it from its definition.
        optimum_python: The Python interpreter that has Optimum; None for the one that the
            environment variable EDGEWISE_OPTIMUM_PYTHON names, or else this one.
        calibrate: A text file by which the weights of a decoder are rounded, so that their errors
            make up for each other on what such texts lead to; None to round each by itself.
        budget: Bytes that the weights may take, counted as for the board's memory: as long as there
            is room, matrices of 4 bits get 8, those first that the text shows to need it most. None
            to leave all as the recipe says.
        drafts: Write graphs into a TFLite file that check drafts, for speculative decoding; each
            takes 6 MiB of memory where the bundle is loaded. ONNX bundles check drafts in any case.
        verification: Hold the graph against the reference before publishing.
        force: Publish even what does not fit the board or misses the gate; the figures are kept.
        progress: Told of each stage.

    Returns:
        The published bundle and its figures.

    Raises:
        EdgewiseError: Something given can not be used; nothing was published.
    """
    report = progress if progress is not None else _silent
    board = load_profile(profile) if isinstance(profile, str) else profile
    folder = Path(output).absolute()
    _check_output(folder)
    interpreter = _tracing_interpreter(via, optimum_python)
    text = None if calibrate is None else CalibrationFile.read(Path(calibrate))
    if budget is not None and text is None:
        raise CalibrationError(
            f"a budget of {budget} bytes was given without a text; which matrices need more bits "
            "is measured on one: give --calibrate FILE too"
        )
    with (
        open_checkpoint(checkpoint, revision=revision, progress=report) as found,
        ExitStack() as traces,
    ):
        opened = apply_prompts(found, prompt)
        traced = None
        if interpreter is not None:
            from edgewise.exporter.traced.opening import traced_model  # noqa: PLC0415 - loads onnx

            traced = traces.enter_context(
                traced_model(
                    opened,
                    board,
                    interpreter,
                    beside=folder,
                    runtime=runtime,
                    recipe=recipe,
                    progress=report,
                )
            )
        plan = make_plan(
            opened,
            board,
            runtime=runtime,
            recipe=recipe,
            context_length=context_length,
            cache_dtype=cache_dtype,
            traced=None if traced is None else traced.definition,
            drafts=drafts,
        )
        memory = planned_memory(plan) if force else check_fit(plan)
        target = find_target(plan.runtime) if traced is None else traced.target
        with _published_as(folder) as temporary, _scratch_in(temporary) as scratch:
            calibration = None
            if text is not None:
                plan, calibration = prepare(
                    opened, plan, text, Path(scratch), report, budget=budget
                )
            if plan.cache_dtype == "int8":
                plan = with_cache_scales(opened, plan, text, report)
            texts = _write_texts(opened, plan, target, temporary)
            listed = target.files(plan)
            unwritten = (BundleFile(role, path, 0, UNMEASURED) for role, path in listed)
            manifest = describe(opened, plan, target, (*unwritten, *texts), calibration)
            target.build(opened, plan, temporary, report)
            built = (describe_file(temporary, role, path) for role, path in listed)
            manifest = replace(manifest, files=(*built, *texts))
            write_manifest(temporary, manifest)
            figures = None
            if verification:
                report("verify", 0, 1)
                load_reference = None if traced is None else traced.target.load_reference
                figures = _verified(opened, plan, target, temporary, load_reference)
                report("verify", 1, 1)
                if not figures.passed and not force:
                    raise failure(figures, str(plan.recipe))
                write_manifest(temporary, replace(manifest, verification=figures.as_manifest()))
            target.finish(temporary)
            report("publish", 0, 1)
    bundle = open_bundle(folder)
    report("publish", 1, 1)
    return ExportReport(bundle, plan, figures, memory)


def _tracing_interpreter(via: str | None, given: str | os.PathLike[str] | None) -> str | None:
    """Return the Python that traces the graph, or None where the graph is built here."""
    if via is None and given is None:
        return None
    if via != "optimum":
        given_too = " where an interpreter for it is given" if given is not None else ""
        raise TracingError(f"via is {via!r}; accepted{given_too}: 'optimum'")
    return find_interpreter(given)


def _verified(
    checkpoint: Checkpoint,
    plan: ExportPlan,
    target: Target,
    folder: Path,
    load_reference: Callable[[Bundle, int, int], Loaded] | None,
) -> Verification:
    capacity, threads = min(MOST_TOKENS, plan.context_length), physical_cores()
    bundle = open_bundle(folder)
    with ExitStack() as engines:
        backend = target.load(bundle, threads=threads, capacity=capacity)
        engines.callback(backend.close)
        reference = None
        if load_reference is not None:
            reference = load_reference(bundle, threads, capacity)
            engines.callback(reference.close)
        exact = replace(plan, factors={})  # the checkpoint itself, not what was made of it
        return verify(checkpoint, exact, backend, bundle.manifest, reference)


def _write_texts(
    checkpoint: Checkpoint, plan: ExportPlan, target: Target, folder: Path
) -> tuple[BundleFile, ...]:
    files = checkpoint.tokenizer
    texts = {
        "tokenizer": ("tokenizer.json", files.tokenizer_json.encode()),
        "tokenizer_config": ("tokenizer_config.json", tokenizer_config(files)),
    }
    if files.chat_template is not None:
        texts["chat_template"] = ("chat_template.jinja", files.chat_template.encode())
    texts |= target.texts(checkpoint, plan)
    for name, content in texts.values():
        write_atomically(folder / name, content)
    return tuple(describe_file(folder, role, name) for role, (name, _) in texts.items())


def _check_output(folder: Path) -> None:
    """Refuse a folder in which anything would be lost that no export wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"the output {folder} is a file; give a folder for the bundle")
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not (path.is_dir() or is_kept_for_speed(path))
    }
    if foreign := sorted(names - _names_of_bundle(folder)):
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise OutputError(
            f"the output {folder} holds files that no export wrote and that an export would "
            f"delete ({shown}); give an empty or a new folder"
        )


def _names_of_bundle(folder: Path) -> set[str]:
    """Return the files that a manifest lists, itself among them; damaged ones count as well."""
    try:
        content = json.loads((folder / MANIFEST_NAME).read_bytes())
        int(content["format_version"])
        return {MANIFEST_NAME, *(str(file["path"]) for file in content["files"])}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


@contextmanager
def _published_as(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``folder``; what the disk refuses is the user's."""
    try:
        with folder_written_atomically(folder) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(
            f"the bundle can not be written to {folder}: {error.strerror or error}; "
            "give another folder, or make room there"
        ) from error


def _scratch_in(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Give a folder for what is needed until the graph is written."""
    return tempfile.TemporaryDirectory(prefix=".calibration-", dir=folder)


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
