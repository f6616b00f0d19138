"""``edgewise doctor``: what this machine is and what of Edgewise works on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from edgewise.cli import console, figures
from edgewise.cli.extras import BASE, EXTRAS, install_command, missing_modules
from edgewise.cli.folders import cache_folder
from edgewise.cli.parameters import examples, json_option
from edgewise.common.version import VERSION

# Modules that can run a bundle, now or in a version to come, and what the user would install.
RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "ai_edge_litert": "ai-edge-litert",
    "tflite_runtime": "tflite-runtime",
}
# These packages by themselves load nothing that was compiled; this does, as the runtime does.
IMPORTS = {
    "ai_edge_litert": "from edgewise.runtime.backends.litert_library import make_importable; "
    "make_importable(); import ai_edge_litert.compiled_model",
    "tflite_runtime": "import tflite_runtime.interpreter",
}
IMPORT_SECONDS = 60.0  # in which a library must import; on an SD card it may take ten


@click.command(
    short_help="Show this machine and what works on it.",
    epilog=examples("edgewise doctor", "edgewise doctor --json | jq -r .profile.qualified_name"),
)
@json_option
def doctor(*, as_json: bool) -> None:
    """Show this machine, the runtimes and extras on it, and the profile that fits it."""
    with console.status("Looking around"):
        findings = examine()
    if as_json:
        console.write_json(findings)
    else:
        show(findings)


def examine() -> dict[str, Any]:
    """Look at the machine and the installation; returns the types of JSON."""
    from edgewise.firmware_profiles import ProfileError, detect_machine, fitting_profile

    machine = detect_machine()
    profile: dict[str, Any]
    try:
        fitting, reasons = fitting_profile(machine)
        profile = {
            "qualified_name": fitting.qualified_name,
            "title": fitting.title,
            "reasons": list(reasons),
        }
    except ProfileError as error:
        profile = {"qualified_name": None, "title": None, "reasons": [str(error)]}
    missing = missing_modules(BASE)
    return {
        "edgewise": VERSION,
        "machine": machine.as_dict(),
        "python": {"executable": sys.executable, "version": machine.python_version},
        "runtimes": {package: examine_runtime(name) for name, package in RUNTIMES.items()},
        "base": {"missing": list(missing)},
        "extras": {extra: examine_extra(extra) for extra in EXTRAS},
        "profile": profile,
        "disk": [examine_disk(folder) for folder in (Path.cwd(), cache_folder())],
    }


def examine_extra(extra: str) -> dict[str, Any]:
    """Find out whether an extra is installed; Optimum may be so in an environment of its own."""
    from edgewise.exporter.traced.environment import VARIABLE

    missing = missing_modules(EXTRAS[extra])
    if extra == "optimum" and shutil.which(os.environ.get(VARIABLE, "")):
        missing = ()
    return {
        "installed": not missing,
        "missing": list(missing),
        "command": install_command(extra),
    }


def examine_runtime(module: str) -> dict[str, Any]:
    """Find out whether a runtime is installed, in which version, and whether it imports here.

    The import happens in a process of its own: on a processor that lacks an instruction a library
    was built with, it ends the process (onnxruntime 1.20 and newer on a Raspberry Pi 4).
    """
    found: dict[str, Any] = {
        "installed": False,
        "version": None,
        "works": False,
        "problem": None,
        "note": None,
    }
    if missing_modules((module,)):
        return found
    from importlib import metadata  # takes longer to import than all of click

    from edgewise.runtime.backends.litert_library import accelerator_note

    distributions = metadata.packages_distributions().get(module, [])
    version = metadata.version(distributions[0]) if distributions else None
    problem = import_problem(module)
    return found | {
        "installed": True,
        "version": version,
        "works": problem is None,
        "problem": problem,
        "note": accelerator_note() if module == "ai_edge_litert" else None,
    }


def import_problem(module: str) -> str | None:
    """Import a module in a process of its own and say what went wrong, or None."""
    try:
        finished = subprocess.run(
            [sys.executable, "-c", IMPORTS.get(module, f"import {module}")],
            capture_output=True,
            check=False,
            timeout=IMPORT_SECONDS,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"its import takes over {IMPORT_SECONDS:g} seconds"
    if finished.returncode == -signal.SIGILL:
        return "its import is killed by SIGILL: this CPU lacks an instruction it was built with"
    if finished.returncode < 0:
        return f"its import is killed by {signal.Signals(-finished.returncode).name}"
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        return f"its import fails: {lines[-1]}"
    return None


def examine_disk(folder: Path) -> dict[str, Any]:
    """Return the space around a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return {
        "path": str(folder),
        "free_bytes": usage.free,
        "total_bytes": usage.total,
        "writable": os.access(existing, os.W_OK),
    }


def show(findings: dict[str, Any]) -> None:
    """Write what `examine` found for people."""
    machine = findings["machine"]
    limit = machine["memory_limit_bytes"]
    console.write_section(
        "machine",
        [
            ("board", machine["board"] or "none that the firmware names"),
            ("CPU", machine["cpu_model"]),
            ("built for", machine["architecture"]),
            ("features", ", ".join(machine["features"]) or "none that kernels choose by"),
            (
                "cores",
                ", ".join(
                    f"{machine[f'{kind}_cores']} {kind}"
                    for kind in ("physical", "logical", "usable")
                ),
            ),
            (
                "memory",
                f"{figures.size(machine['memory_total_bytes'])}, "
                f"{figures.size(machine['memory_available_bytes'])} available"
                + (f", limited to {figures.size(limit)}" if limit is not None else ""),
            ),
            ("system", f"{machine['os_name']} ({machine['libc']})"),
            ("Python", f"{machine['python_version']} ({findings['python']['executable']})"),
        ],
    )
    console.write_section(
        "runtimes",
        [(name, _runtime_line(found)) for name, found in findings["runtimes"].items()],
    )
    missing = findings["base"]["missing"]
    console.write_section(
        "installation",
        [
            ("edgewise", findings["edgewise"]),
            (
                "base",
                f"lacks {', '.join(missing)}: pip install edgewise" if missing else "complete",
            ),
            *(
                (name, "installed" if extra["installed"] else f"missing: {extra['command']}")
                for name, extra in findings["extras"].items()
            ),
        ],
    )
    profile = findings["profile"]
    console.write_section(
        f"profile: {profile['qualified_name'] or 'none'}",
        [(f"- {reason}",) for reason in profile["reasons"]],
    )
    console.write_section(
        "disk",
        [
            (
                disk["path"],
                f"{figures.size(disk['free_bytes'])} free"
                + ("" if disk["writable"] else ", not writable"),
            )
            for disk in findings["disk"]
        ],
    )


def _runtime_line(found: dict[str, Any]) -> str:
    if not found["installed"]:
        return "not installed"
    version = found["version"] or "of unknown version"
    line = f"{version}, works" if found["works"] else f"{version}, but {found['problem']}"
    return f"{line}; {found['note']}" if found["note"] else line
