"""How many answers the commands that serve compute at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewise.runtime import Manifest


def default_slots(manifest: Manifest) -> int:
    """Return how many slots there are unless a user says: as many as the profile advises.

    The bundle may have been exported for a profile that only the machine of its export has.
    """
    if manifest.family not in {"decoder", "vision_language"}:
        return 1
    from edgewise.firmware_profiles import available_profiles, load_profile

    name = manifest.profile.partition(":")[0]
    return load_profile(name).slots if name in available_profiles() else 1
