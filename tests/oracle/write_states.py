"""Compute with transformers what tiny encoders and encoder-decoders give, and store or compare it.

Runs in an environment of its own (torch and transformers are no dependency of Edgewise):

    python tests/oracle/write_states.py           # write tests/data/states/*.npz
    python tests/oracle/write_states.py --check   # compare what is stored with a live run

The comparison runs each case once more with the padding before the tokens, where transformers takes
positions that are counted from the first real one: of its own (RoBERTa, T5) or as given (BERT).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoint import DATA
from tiny_families import (
    ENCODER_DECODERS,
    ENCODERS,
    TinyEncoder,
    TinyEncoderDecoder,
    on_the_left,
)

TOLERANCE = 1e-5
OFFSETS = np.arange(-300, 301)


def loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.write(Path(folder))
        kind = getattr(transformers, model.config["architectures"][0])
        poolers = (transformers.BertModel, transformers.RobertaModel)
        options = {"add_pooling_layer": False} if kind in poolers else {}
        network, loading = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **options,
        )
    for kind, names in loading.items():
        if names:
            raise SystemExit(f"{model.name}: transformers reports {kind}: {names}")
    return network.eval()


def encoder_states(name: str) -> dict[str, np.ndarray]:
    model = TinyEncoder(name)
    types = {"token_type_ids": torch.tensor(model.types)} if model.configuration.token_types else {}
    with torch.no_grad():
        result = loaded(model)(
            input_ids=torch.tensor(model.ids),
            attention_mask=torch.tensor(model.mask),
            output_hidden_states=True,
            **types,
        )
    logits = {"logits": result.logits.numpy()} if "logits" in result else {}
    if model.configuration.labels:
        return logits
    states = result.hidden_states[-1]
    mask = torch.tensor(model.mask)[:, :, None]
    mean = (states * mask).sum(1) / mask.sum(1)
    return {"hidden_states": states.numpy(), "mean": mean.numpy(), **logits}


def left_padded_difference(name: str) -> float | None:
    """Return how far rows padded on the left are from what is stored; None: not computable."""
    is_encoder = name in ENCODERS
    model = TinyEncoder(name) if is_encoder else TinyEncoderDecoder(name)
    kind = model.config["model_type"]
    if kind in ("distilbert", "bart") or name == f"{kind}_classification":
        return None  # positions can not be given, or the first token is taken for the text's
    mask = on_the_left(model.mask, model.mask)
    given = {
        "input_ids": on_the_left(model.ids, model.mask, fill=model.config.get("pad_token_id", 0)),
        "attention_mask": mask,
    }
    if kind == "bert":
        given["token_type_ids"] = on_the_left(model.types, model.mask)
        given["position_ids"] = np.maximum(mask.cumsum(axis=1) - 1, 0)
    if not is_encoder:
        given["decoder_input_ids"] = model.targets
    with torch.no_grad():
        result = loaded(model)(
            **{key: torch.tensor(value) for key, value in given.items()}, output_hidden_states=True
        )
    expected = model.expected()
    if not is_encoder:
        return float(np.abs(result.logits.numpy() - expected["logits"]).max())
    live = {"logits": result.logits.numpy()} if "logits" in result else {}
    if "hidden_states" in expected:
        live["hidden_states"] = result.hidden_states[-1].numpy()
    return max(
        float(np.abs(array - on_the_left(expected[part], model.mask))[mask > 0].max())
        for part, array in live.items()
    )


def encoder_decoder_states(name: str) -> dict[str, np.ndarray]:
    model = TinyEncoderDecoder(name)
    with torch.no_grad():
        result = loaded(model)(
            input_ids=torch.tensor(model.ids),
            attention_mask=torch.tensor(model.mask),
            decoder_input_ids=torch.tensor(model.targets),
        )
    return {
        "encoder_hidden_states": result.encoder_last_hidden_state.numpy(),
        "logits": result.logits.numpy(),
    }


def bucket_numbers() -> dict[str, np.ndarray]:
    """Buckets of the published function for -300 to 300, in the sizes that models have."""
    from transformers.models.t5.modeling_t5 import T5Attention

    buckets = {}
    for bidirectional in (True, False):
        for count, largest in ((32, 128), (16, 32)):
            numbers = T5Attention._relative_position_bucket(
                torch.tensor(OFFSETS), bidirectional, count, largest
            )
            buckets[f"{count}_{largest}_{int(bidirectional)}"] = numbers.numpy().astype(np.uint8)
    return buckets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    live = {"t5_buckets": bucket_numbers()}
    live |= {name: encoder_states(name) for name in ENCODERS}
    live |= {name: encoder_decoder_states(name) for name in ENCODER_DECODERS}
    worst = 0.0
    for name, arrays in live.items():
        path = DATA / "states" / f"{name}.npz"
        if not check:
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, **arrays)
            print(f"{name}: written")
            continue
        with np.load(path, allow_pickle=False) as stored:
            differences = [
                np.abs(array.astype(float) - stored[part]).max() for part, array in arrays.items()
            ]
        worst = max(worst, *differences)
        print(f"{name}: largest difference {max(differences):.2g}")
        left = left_padded_difference(name) if name != "t5_buckets" else None
        if left is not None:
            worst = max(worst, left)
            print(f"{name}: {left:.2g} with padding on the left")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
