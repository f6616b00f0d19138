"""The pages that scripts write are what the code gives now."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def test_what_fits_is_current() -> None:
    fit_table = script("fit_table")
    page = fit_table.DOCUMENT.read_text(encoding="utf-8")
    assert page == fit_table.document(), "run `python scripts/fit_table.py`"


def test_the_models_are_current_and_the_reference_holds_its_bounds() -> None:
    models_table = script("models_table")
    page = models_table.DOCUMENT.read_text(encoding="utf-8")
    bounds = models_table.bounds_of(page)
    figures = models_table.measured(("numpy",))
    assert {key for key in bounds if key[1] == "numpy"} == set(figures)
    for key, difference in figures.items():
        assert difference < bounds[key], key
    assert page == models_table.document(bounds), "run `python scripts/models_table.py`"
