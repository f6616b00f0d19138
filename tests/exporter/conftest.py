"""What the tests of whole exports share: tiny checkpoints on the disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.exporter import export
from edgewise.runtime import Bundle


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write the Hugging Face folder of a case, once a session: nobody may change it."""
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_checkpoint(
                load_case(name), tmp_path_factory.mktemp("tiny") / name
            )
        return written[name]

    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A Hugging Face folder to break."""
    return write_checkpoint(load_case("llama_tied_wide_head"), tmp_path / "tiny-llama")


@pytest.fixture(scope="session")
def bundle(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An fp32 bundle of the tiny llama, once a session: nobody may change it."""
    output = tmp_path_factory.mktemp("bundles") / "fp32"
    folder = tiny_folder("llama_tied_wide_head")
    return export(str(folder), profile="raspberry_pi_5", output=output, recipe="fp32").bundle
