"""Boards as data, and what this machine is.

Workflow: a board is one TOML file here; `load_profile` reads it strictly into a frozen Profile;
`detect_machine` and `fitting_profile` tell which one fits the machine at hand.
Rules: standard library only; a new board is a new file and no code. The names below are imported
when they are first used: a runtime that only counts cores reads no boards.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewise.firmware_profiles.detect import detect_machine, physical_cores
    from edgewise.firmware_profiles.errors import ProfileError
    from edgewise.firmware_profiles.fitting import fitting_profile, misfits
    from edgewise.firmware_profiles.loading import available_profiles, load_profile
    from edgewise.firmware_profiles.machine import Machine
    from edgewise.firmware_profiles.profile import Profile
    from edgewise.firmware_profiles.recipe import RecipeChoice

__all__ = [
    "Machine",
    "Profile",
    "ProfileError",
    "RecipeChoice",
    "available_profiles",
    "detect_machine",
    "fitting_profile",
    "load_profile",
    "misfits",
    "physical_cores",
]

_MODULES = {
    "detect": ("detect_machine", "physical_cores"),
    "errors": ("ProfileError",),
    "fitting": ("fitting_profile", "misfits"),
    "loading": ("available_profiles", "load_profile"),
    "machine": ("Machine",),
    "profile": ("Profile",),
    "recipe": ("RecipeChoice",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
