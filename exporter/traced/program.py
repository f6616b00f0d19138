"""The program that runs in Optimum's own interpreter: a checkpoint's folder in, a traced graph out.

It is given to that interpreter as text (tracing.py), so it imports nothing of ours. Arguments: the
checkpoint's folder, the folder for the graph, Optimum's name of the task.

Of an encoder-decoder Optimum traces three graphs: the encoder, a decoder's first step and its later
ones. Two come out. ``encoder.onnx`` gives what the first step makes of the encoder's states, keys
and values of every decoder layer; ``model.onnx`` takes them: the graph of later steps, which
computes the first one as well, with an empty past.

Rules: nothing is fetched and no code of the checkpoint is run; weights lie beside the graph, so
that they can be read a few rows at a time.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from optimum.exporters.onnx import main_export

GRAPH, WEIGHTS = "model.onnx", "weights.bin"
ENCODER, ENCODER_WEIGHTS = "encoder.onnx", "encoder.bin"
OPSET = 18  # the first in which reductions take their axes as an input, as our own nodes do
LARGEST_INLINE = 1024  # bytes
STATES = "encoder_hidden_states"
CROSS = "cross_key_values"
HEADS_FIRST = [0, 2, 1, 3]  # from [batch, tokens, heads, size]


def main(checkpoint: str, output: str, task: str) -> None:
    """Export with Optimum, then move the weights out of the graphs."""
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
    folder = Path(output)
    if task.startswith("text2text"):
        names = ("encoder_model", "decoder_model", "decoder_with_past_model")
        encoder, first_step, later_steps = (onnx.load(folder / f"{name}.onnx") for name in names)
        give_keys_and_values(encoder.graph, first_step.graph)
        take_keys_and_values(later_steps.graph)
        graphs = {(GRAPH, WEIGHTS): later_steps, (ENCODER, ENCODER_WEIGHTS): encoder}
    else:
        graphs = {(GRAPH, WEIGHTS): onnx.load(folder / GRAPH)}
    for file in folder.iterdir():
        file.unlink()
    for (name, weights), model in graphs.items():
        onnx.save_model(
            model,
            folder / name,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=weights,
            size_threshold=LARGEST_INLINE,
        )


def take_keys_and_values(later_steps: onnx.GraphProto) -> None:
    """Call a decoder's cache, and what it takes of its encoder, by our names."""
    names = {}
    for item in (*later_steps.input, *later_steps.output):
        prefix, *rest = item.name.split(".")
        if "encoder" in rest:
            names[item.name] = ".".join([CROSS, rest[0], rest[2]])
        elif "decoder" in rest:
            names[item.name] = ".".join([prefix, rest[0], rest[2]])
    rename(later_steps, names)


def give_keys_and_values(encoder: onnx.GraphProto, first_step: onnx.GraphProto) -> None:
    """Let an encoder give a decoder's keys and values in place of its states."""
    rename(encoder, {item.name: item.name for item in encoder.input}, "encoder/")
    states = encoder.output[0].name
    del encoder.output[:]
    for given in first_step.output:
        _, *rest = given.name.split(".")
        if "encoder" not in rest:
            continue
        name = ".".join([CROSS, rest[0], rest[2]])
        _, heads, _, size = (item.dim_value for item in given.type.tensor_type.shape.dim)
        shape = ["batch_size", heads, "encoder_sequence_length", size]
        WayFromStates(encoder, first_step, given.name, name).add(states, [0, 0, heads, size])
        encoder.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def rename(graph: onnx.GraphProto, names: dict[str, str], prefix: str = "") -> None:
    """Give some edges new names, and all others and the nodes a prefix."""

    def renamed(edge: str) -> str:
        return names.get(edge) or (edge and f"{prefix}{edge}")

    for item in (*graph.initializer, *graph.input, *graph.output):
        item.name = renamed(item.name)
    for node in graph.node:
        node.name = f"/{prefix}{node.name.strip('/')}"
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    del graph.value_info[:]


class WayFromStates:
    """The nodes that make one result of the encoder's states.

    The tracer takes a batch's size from the states of the decoder, all of whose layers would so
    belong to the way; here each reshaping keeps the sizes of what it is given.
    """

    def __init__(
        self, target: onnx.GraphProto, source: onnx.GraphProto, given: str, name: str
    ) -> None:
        self.target = target
        self.given, self.name = given, name
        self.makers = {edge: node for node in source.node for edge in node.output}
        self.constants = {item.name: item for item in source.initializer}
        self.there = {item.name for item in target.initializer}
        self.there |= {edge for node in target.node for edge in node.output}

    def add(self, states: str, sizes: list[int]) -> None:
        """Add copies of the nodes, from the target's states on."""
        edge, called = self.given, self.name
        added: list[onnx.NodeProto] = []
        while edge != STATES:
            if edge not in self.makers:
                raise SystemExit(f"{self.given} is not made of the encoder's states")
            copy = onnx.NodeProto()
            copy.CopyFrom(self.makers[edge])
            read = list(copy.input)
            if copy.op_type == "Reshape":
                turns = [list(item.ints) for item in added[-1].attribute] if added else []
                if turns != [HEADS_FIRST]:
                    raise SystemExit(f"{self.given} is arranged in a way that is not known here")
                read[1] = f"{self.name}/sizes"
                numbers = numpy_helper.from_array(np.array(sizes, np.int64), read[1])
                self.target.initializer.append(numbers)
                self.there.add(read[1])
            changing = [index for index, name in enumerate(read) if not self.is_constant(name)]
            if len(changing) != 1:
                raise SystemExit(f"{self.given} is not made of the encoder's states alone")
            edge = read[changing[0]]
            following = states if edge == STATES else f"{self.name}/{len(added)}"
            copy.input[:] = [
                following if index == changing[0] else self.adopt(name)
                for index, name in enumerate(read)
            ]
            copy.output[:] = [called]
            called = following
            added.append(copy)
        self.target.node.extend(reversed(added))

    def is_constant(self, edge: str) -> bool:
        """Tell whether an edge depends on no input."""
        if not edge or edge in self.constants or edge in self.there:
            return True
        node = self.makers.get(edge)
        return node is not None and all(map(self.is_constant, node.input))

    def adopt(self, edge: str) -> str:
        """Return what a constant of the source is called in the target, after copying it."""
        if not edge or edge in self.there:
            return edge
        name = f"encoder/of_decoder/{edge}"
        if name in self.there:
            return name
        self.there.add(name)
        if edge in self.constants:
            constant = self.target.initializer.add()
            constant.CopyFrom(self.constants[edge])
            constant.name = name
            return name
        copy = onnx.NodeProto()
        copy.CopyFrom(self.makers[edge])
        copy.input[:] = map(self.adopt, copy.input)
        copy.output[:] = [name]
        self.target.node.append(copy)
        return name


if __name__ == "__main__":
    main(*sys.argv[1:4])
