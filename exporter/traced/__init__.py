"""Architectures that have no definition here: graphs that Hugging Face Optimum traced.

Workflow: tracing.py finds an interpreter with Optimum and runs program.py in it, which writes the
graph of a checkpoint; model.py reads from it what a definition says of other models; the rest of an
export goes on as ever, with targets/traced_onnx.py rewriting the graph.
"""
