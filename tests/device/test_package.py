"""The package: its names exist, and asking for one loads no more than it needs."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import edgewise.device
from edgewise.device.text_generator import describe_model, describe_versions


def test_every_public_name_exists() -> None:
    for name in edgewise.device.__all__:
        assert getattr(edgewise.device, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        edgewise.device.Nonsense  # noqa: B018 (the access is the test)


def test_the_agent_needs_neither_a_broker_nor_a_model_library() -> None:
    code = (
        "import sys, edgewise.device; edgewise.device.Agent, edgewise.device.Requester\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}\n"
        "    & {'amqtt', 'onnx', 'onnxruntime', 'torch', 'transformers', 'tokenizers', 'numpy'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_a_model_is_described_by_its_manifest_as_far_as_it_has_one() -> None:
    manifest = SimpleNamespace(model_id="m", parameters=135, recipe="int4", origin=object())
    model = SimpleNamespace(manifest=manifest)
    assert describe_model(model) == {"model_id": "m", "parameters": 135, "recipe": "int4"}
    assert describe_model(SimpleNamespace()) == {}
    assert describe_versions()["paho-mqtt"].startswith("2.")
