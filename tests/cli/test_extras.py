"""The table of extras against pyproject.toml, which installs them."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from edgewise.cli.extras import BASE, EXTRAS, missing_modules

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
# Modules that are not called as their distribution is.
MODULES = {"paho-mqtt": "paho", "optimum-onnx": "optimum", "pillow": "PIL"}


def modules_of(requirements):
    for requirement in requirements:
        name = re.match(r"[\w-]+", requirement)[0]
        if name == "edgewise":
            extra = re.search(r"\[(.*)\]", requirement)[1]
            yield from modules_of(PROJECT["optional-dependencies"][extra])
        else:
            yield MODULES.get(name, name.replace("-", "_"))


def test_each_extra_has_the_modules_that_it_installs():
    offered = {name: set(modules) for name, modules in EXTRAS.items()}
    declared = {
        name: set(modules_of(requirements))
        for name, requirements in PROJECT["optional-dependencies"].items()
        if name not in {"benchmarks", "dev"}  # of this repository, not of what is installed
    }
    assert offered == declared


def test_the_base_has_what_the_distribution_needs():
    assert {*BASE, "click"} == set(modules_of(PROJECT["dependencies"]))


def test_a_module_counts_as_installed_without_being_imported():
    assert missing_modules(("json", "no_such_module_here")) == ("no_such_module_here",)
    assert metadata.version("click")
