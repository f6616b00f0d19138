"""The import rules of the architecture, and the checker that holds the product to them."""

import subprocess
import sys

import pytest
from import_rules import ROOT, imports_of, product_files, violations_in


def test_every_module_keeps_the_import_rules():
    files = product_files()
    problems = [
        problem for path in files for problem in violations_in((ROOT / path).read_text(), path)
    ]
    assert problems == []
    assert {path.partition("/")[0] for path in files} >= {
        "common",
        "firmware_profiles",
        "runtime",
        "exporter",
        "device",
    }


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("common/files.py", "from edgewise.runtime.bundle import Bundle"),
        ("common/files.py", "import numpy"),
        ("firmware_profiles/profile.py", "import edgewise.runtime"),
        ("firmware_profiles/profile.py", "from edgewise import exporter"),
        ("runtime/model.py", "from edgewise.exporter import export"),
        ("runtime/model.py", "from ..exporter import export"),
        ("runtime/backends/onnx.py", "from ...device import agent"),
        ("runtime/model.py", "import onnxruntime"),
        ("runtime/backends/onnx_helper.py", "import onnxruntime as ort"),
        ("runtime/model.py", "import onnx"),
        ("exporter/plan.py", "from edgewise.device.agent import Agent"),
        ("exporter/verify.py", "import onnxruntime"),
        ("exporter/pipeline.py", "from onnx import TensorProto"),
        ("exporter/graph/numpy_builder.py", "import onnx.helper"),
        ("exporter/quantize/blockwise.py", "import gguf"),
        ("exporter/checkpoint/hub.py", "import torch"),
        ("exporter/models/llama.py", "from transformers import LlamaConfig"),
        ("device/agent.py", "import paho.mqtt.client"),
        ("device/agent.py", "import edgewise.exporter.plan"),
        ("device/agent.py", "import numpy as np"),
        ("device/mqtt.py", "from amqtt.broker import Broker"),
        ("exporter/checkpoint/safetensors_file.py", "import pickle"),
        ("cli/run.py", "from edgewise.runtime import load"),
        ("runtime/chat.py", "import some_new_library"),
    ],
)
@pytest.mark.parametrize(
    "wrapping",
    [
        "{}",
        "def f():\n    {}",
        "class C:\n    async def f(self):\n        {}",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}",
        "try:\n    {}\nexcept ImportError:\n    pass",
    ],
)
def test_a_violation_is_found_wherever_it_hides(path, source, wrapping):
    problems = violations_in(wrapping.format(source), path)
    if path == "cli/run.py" and ("def f" in wrapping or "TYPE_CHECKING" in wrapping):
        assert problems == []  # inside a command is where the rule wants it
    else:
        line = 1 + wrapping[: wrapping.index("{}")].count("\n")
        assert len(problems) == 1
        assert problems[0].startswith(f"{path}:{line} ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("common/files.py", "import os, hashlib\nfrom pathlib import Path"),
        ("firmware_profiles/profile.py", "from edgewise.common.errors import EdgewiseError"),
        ("firmware_profiles/profile.py", "from . import recipe\nfrom .recipe import RecipeChoice"),
        ("runtime/backends/onnx.py", "import onnxruntime\nimport numpy as np"),
        ("runtime/model.py", "from edgewise.firmware_profiles.detect import physical_cores"),
        ("exporter/graph/onnx_blocks.py", "from onnx import TensorProto"),
        ("exporter/pipeline.py", "from edgewise.runtime.bundle import Manifest"),
        ("exporter/checkpoint/gguf_blocks.py", "def f():\n    import gguf"),
        ("device/mqtt.py", "from paho.mqtt import client"),
        ("device/agent.py", "from edgewise.runtime import load"),
        ("cli/main.py", "from edgewise.common.errors import EdgewiseError\nimport click"),
        ("cli/run.py", "def run():\n    from edgewise.runtime import load"),
        ("runtime/__init__.py", "import importlib\nimportlib.import_module(f'{__name__}.model')"),
    ],
)
def test_what_the_rules_allow_is_let_through(path, source):
    assert violations_in(source, path) == []


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nimportlib.import_module('onnxruntime')",
        "from importlib import import_module\nimport_module('edgewise.exporter')",
        "__import__('torch')",
        "import importlib\nimportlib.import_module(name)",
        "import importlib\nimportlib.import_module(f'edgewise.{name}')",
    ],
)
def test_an_import_by_a_call_is_an_import(source):
    assert len(violations_in(source, "runtime/model.py")) == 1


def test_relative_imports_are_resolved_against_the_file():
    source = "from . import a\nfrom .b import c\nfrom ..d import e\nfrom ... import exporter"
    modules = [found.module for found in imports_of(source, "runtime/backends/onnx.py")]
    assert modules == [
        "edgewise.runtime.backends",
        "edgewise.runtime.backends.b",
        "edgewise.runtime.d",
        "edgewise.exporter",
    ]


HEAVY = {
    "onnx",
    "onnxruntime",
    "torch",
    "transformers",
    "gguf",
    "huggingface_hub",
    "amqtt",
    "ai_edge_litert",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import edgewise.runtime",
        "import edgewise.runtime; edgewise.runtime.load",
        "import edgewise.device",
        "import edgewise.firmware_profiles",
        "import edgewise.exporter; edgewise.exporter.model_types()",
    ],
)
def test_importing_a_stage_loads_no_library_that_it_may_never_use(statement):
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not HEAVY & {name.partition(".")[0] for name in result.stdout.split()}
