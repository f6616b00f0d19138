"""Which operators of a .tflite graph XNNPACK does not run."""

from __future__ import annotations

from pathlib import Path

from ai_edge_litert.interpreter import Interpreter


def outside_of_partitions(path: Path) -> tuple[int, list[str]]:
    """Return how many partitions XNNPACK runs in the first graph, and the operators outside."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    partitions = [node for node in nodes if node["op_name"] == "DELEGATE"]
    makers = {index: node for node in nodes if node not in partitions for index in node["outputs"]}
    made = {index for node in partitions for index in node["outputs"]}
    results = {entry["index"] for entry in interpreter.get_output_details()}
    waiting = [index for node in partitions for index in node["inputs"]] + list(results - made)
    outside, seen = [], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node["index"] not in seen:
            seen.add(node["index"])
            outside.append(node["op_name"])
            waiting += list(node["inputs"])
    return len(partitions), sorted(outside)
