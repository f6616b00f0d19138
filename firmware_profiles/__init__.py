"""Boards as data, and what this machine is.

Workflow: a board is one TOML file here; `load_profile` reads it strictly into a frozen Profile;
`detect_machine` and `fitting_profile` tell which one fits the machine at hand.
Rules: standard library only; a new board is a new file and no code.
"""

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
