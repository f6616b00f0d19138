"""What is installed is what is in the folders."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_of_the_source_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    tops = {folder.split(".")[1] for folder in settings["packages"]}
    found = {
        ".".join(("edgewise", *file.parent.relative_to(ROOT).parts))
        for top in tops
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert set(settings["packages"]) == found
