"""No field nobody reads: each is used by code beyond its declaration and the printing of all."""

import ast
import dataclasses
from pathlib import Path

from edgewise.exporter import budget
from edgewise.firmware_profiles import Machine, Profile, loading
from edgewise.firmware_profiles.hardware import (
    Accelerator,
    Cores,
    Cpu,
    Memory,
    MemoryVariant,
    OperatingSystem,
)
from edgewise.firmware_profiles.profile import RuntimeChoice
from edgewise.firmware_profiles.recipe import RecipeChoice

TYPES = (
    Accelerator,
    Cores,
    Cpu,
    Memory,
    MemoryVariant,
    OperatingSystem,
    Profile,
    RecipeChoice,
    RuntimeChoice,
)
FOLDER = Path(loading.__file__).parent
CONSUMERS = [*FOLDER.glob("*.py"), Path(budget.__file__)]


def attributes_read(path: Path) -> set[str]:
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        # What a class reads of itself only checks or prints it.
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }


def test_every_field_of_a_profile_is_read() -> None:
    read = set().union(*(attributes_read(path) for path in CONSUMERS))
    # The roles are read together, as RecipeChoice.formats.
    roles = {"embedding", "attention", "mlp", "head"}
    declared = {field.name for kind in TYPES for field in dataclasses.fields(kind)} - roles
    assert declared - read == set()
    assert "formats" in read


def test_every_field_of_a_machine_is_read_or_printed() -> None:
    read = set().union(*(attributes_read(path) for path in CONSUMERS))
    declared = {field.name for field in dataclasses.fields(Machine)}
    # These two are for the doctor's eyes only, through as_dict.
    assert declared - read <= {"memory_available_bytes", "memory_total_bytes", "memory_limit_bytes"}
