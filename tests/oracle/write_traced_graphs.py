"""Let Optimum trace tiny random checkpoints, and store the graphs with what transformers computes.

Runs in an environment of its own, which is not that of the other scripts here:

    pip install 'optimum-onnx[onnxruntime]' torch==2.13.0   # optimum 2.1, transformers 4.57
    python tests/oracle/write_traced_graphs.py           # write tests/data/traced
    python tests/oracle/write_traced_graphs.py --check   # compare what is stored with a live run

Writes tests/data/traced/NAME: config.json, the graph and its weights as exporter/traced/program.py
leaves them, and expected.npz with token ids and results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

TESTS = Path(__file__).parents[1]
PROGRAM = TESTS.parent / "exporter" / "traced" / "program.py"
DATA = TESTS / "data" / "traced"
SIZES = {"vocab_size": 120, "hidden_size": 32, "num_attention_heads": 2}
ENCODER = SIZES | {
    "embedding_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
CASES = {
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        SIZES
        | {
            "num_hidden_layers": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "rotary_pct": 0.5,
        },
        "text-generation-with-past",
    ),
    "opt_tied": (  # products of two dimensions (Gemm), positions from the mask
        "OPTForCausalLM",
        SIZES
        | {
            "num_hidden_layers": 1,
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
        },
        "text-generation-with-past",
    ),
    "albert_features": (  # layers that share their weights
        "AlbertModel",
        ENCODER | {"num_hidden_layers": 2},
        "feature-extraction",
    ),
    "electra_classify": (
        "ElectraForSequenceClassification",
        ENCODER | {"id2label": {0: "dull", 1: "fair", 2: "bright"}},
        "text-classification",
    ),
}
CASES["marian"] = (  # an encoder and a decoder that share an embedding with the head
    "MarianMTModel",
    {
        "vocab_size": SIZES["vocab_size"],
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 3,
        "decoder_start_token_id": 3,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
    },
    "text2text-generation-with-past",
)
GRAPHS = ("weights.bin", "encoder.bin")  # weights of one graph, or of two
TOLERANCE = 1e-5
STANDARD_DEVIATION = 0.2  # wide enough that the largest logits are well apart


def write(name: str, folder: Path) -> None:
    architecture, sizes, task = CASES[name]
    kind = getattr(transformers, architecture)
    torch.manual_seed(7)
    network = kind(kind.config_class(**sizes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.requires_grad:  # positions that are computed
                continue
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, STANDARD_DEVIATION)
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.random.default_rng(7).integers(4, SIZES["vocab_size"], (2, 12))
    mask = np.ones_like(ids)
    if not task.startswith("text-generation"):
        mask[1, 7:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if task.startswith("text2text"):
        given["decoder_input_ids"] = ids[:, ::-1].copy()
    with torch.no_grad():
        result = network(**{key: torch.tensor(value) for key, value in given.items()})
    with tempfile.TemporaryDirectory() as checkpoint:
        network.save_pretrained(checkpoint)
        subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM.read_text(), checkpoint, folder, task], check=True
        )
        config = json.loads((Path(checkpoint) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    np.savez_compressed(folder / "expected.npz", ids=ids, mask=mask, result=result[0].numpy())
    for file in folder.iterdir():
        file.chmod(0o644)


def check(name: str) -> float:
    """Return how far a live run's results are from those that are stored."""
    with tempfile.TemporaryDirectory() as folder:
        write(name, Path(folder))
        live, stored = (
            np.load(path / "expected.npz", allow_pickle=False)["result"]
            for path in (Path(folder), DATA / name)
        )
        weights = [
            [(path / file).read_bytes() for file in GRAPHS if (path / file).exists()]
            for path in (Path(folder), DATA / name)
        ]
    if weights[0] != weights[1]:
        raise SystemExit(f"{name}: Optimum stores other weights than those of the stored graph")
    return float(np.abs(live - stored).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("names", nargs="*", help="cases; all by default")
    arguments = parser.parse_args()
    is_check = arguments.check
    for name in arguments.names or CASES:
        if not is_check:
            write(name, DATA / name)
            continue
        difference = check(name)
        print(f"{name}: {difference:.2g}")
        if difference > TOLERANCE:
            raise SystemExit(f"{name}: transformers gives other results than those stored")


if __name__ == "__main__":
    main()
