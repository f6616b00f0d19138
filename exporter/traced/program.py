"""The program that runs in Optimum's own interpreter: a checkpoint's folder in, a traced graph out.

It is given to that interpreter as text (tracing.py), so it imports nothing of ours. Arguments: the
checkpoint's folder, the folder for the graph, Optimum's name of the task.

Rules: nothing is fetched and no code of the checkpoint is run; weights lie beside the graph, so
that they can be read a few rows at a time.
"""

import sys
import warnings
from pathlib import Path

import onnx
from optimum.exporters.onnx import main_export

GRAPH = "model.onnx"
WEIGHTS = "weights.bin"
OPSET = 18  # the first in which reductions take their axes as an input, as our own nodes do
LARGEST_INLINE = 1024  # bytes


def main(checkpoint: str, output: str, task: str) -> None:
    """Export with Optimum, then move the weights out of the graph."""
    warnings.filterwarnings("ignore")  # the tracer warns of every constant
    main_export(
        checkpoint,
        output,
        task=task,
        opset=OPSET,
        device="cpu",
        dtype="fp32",
        library_name="transformers",
        no_post_process=True,
        do_validation=False,
        trust_remote_code=False,
        local_files_only=True,
    )
    path = Path(output) / GRAPH
    model = onnx.load(str(path))
    for file in Path(output).iterdir():
        file.unlink()
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=WEIGHTS,
        size_threshold=LARGEST_INLINE,
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
