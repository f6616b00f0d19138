"""Where Optimum is: best in an environment of its own, for it needs its own transformers."""

from __future__ import annotations

VARIABLE = "EDGEWISE_OPTIMUM_PYTHON"  # names that environment's interpreter
# A bare torch is a build for CUDA of several GB.
INSTALL_COMMAND = (
    "python -m venv optimum && optimum/bin/pip install 'optimum-onnx[onnxruntime]' torch==2.13.0"
)
