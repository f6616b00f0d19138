"""Compute with transformers what tiny vision-language models give, and store or compare it.

Runs in an environment of its own (torch and transformers are no dependency of Edgewise):

    python tests/oracle/write_vision_language.py           # write tests/data/states/*.npz
    python tests/oracle/write_vision_language.py --check   # compare what is stored

transformers has no LLaVA-Phi, but the same model as a LLaVA on a Phi: tensors are renamed, and the
head gets the bias that a Phi has. A LLaVA of its own is also saved, and the names that it is saved
under must be those that are read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, PhiConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoint import DATA
from tiny_vision_language import VISION_LANGUAGE, VISION_STATES, TinyVisionLanguage

from edgewise.exporter.checkpoint.llava_names import with_parts_named

TOLERANCE = 1e-5


def renamed(model: TinyVisionLanguage, name: str) -> str:
    c = model.configuration
    if name.startswith(c.tower):
        return f"model.vision_tower.{name.removeprefix(c.tower)}"
    for index, part in enumerate(c.projector):
        if name.startswith(f"{part}."):
            name = name.replace(part, f"model.multi_modal_projector.linear_{index + 1}")
    if name.startswith("model.") and "multi_modal" not in name:
        name = f"model.language_model.{name.removeprefix('model.')}"
    return name


def network(model: TinyVisionLanguage) -> LlavaForConditionalGeneration:
    if model.config["model_type"] == "llava":
        config = LlavaConfig(**model.config)
        config._attn_implementation = "eager"
        return loaded(model, LlavaForConditionalGeneration(config))
    parts = model.config["vision_config"]
    text = {name: value for name, value in model.config.items() if name != "vision_config"}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**parts["vision_tower"]).to_dict(),
        text_config=PhiConfig(**{**text, "model_type": "phi"}).to_dict(),
        image_token_index=model.config["vocab_size"] - 1,
        attn_implementation="eager",
    )
    result = LlavaForConditionalGeneration(config)
    result.lm_head = torch.nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size)
    return loaded(model, result)


def loaded(
    model: TinyVisionLanguage, result: LlavaForConditionalGeneration
) -> LlavaForConditionalGeneration:
    arrays = model.arrays | model.unread_arrays()
    state = {renamed(model, name): torch.tensor(array) for name, array in arrays.items()}
    result.load_state_dict(state, strict=True)
    if model.config["model_type"] == "llava":
        check_names(model, result, set(arrays))
    return result.eval()


def check_names(
    model: TinyVisionLanguage, network: LlavaForConditionalGeneration, known: set[str]
) -> None:
    """Stop where transformers saves a model under names that are not read as ours."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            written = list(file.keys())
    read = set(with_parts_named(dict.fromkeys(written)))
    if read != known:
        raise SystemExit(f"{model.name}: saved are {sorted(written)[:4]}..., {read ^ known}")
    print(f"{model.name}: saved as {sorted(written)[0]} ... {sorted(written)[-1]}")


@torch.no_grad()
def live_states(name: str) -> dict[str, np.ndarray]:
    model = TinyVisionLanguage(name)
    llava, pixels = network(model), torch.tensor(model.pixels())
    tower = llava.model.vision_tower(pixels, output_hidden_states=True)
    vision = model.configuration.vision
    states = tower.hidden_states[vision.layers]
    if not vision.keeps_first:
        states = states[:, 1:]
    features = llava.model.multi_modal_projector(states)
    marker = model.configuration.vocabulary_size - 1
    result = {VISION_STATES: states.numpy(), "image_features": features.numpy()}
    for index, prompt in enumerate(model.prompts):
        ids = [
            token
            for mark in prompt
            for token in ([mark] if mark >= 0 else [marker] * model.configuration.vision.tokens)
        ]
        images = [-1 - mark for mark in prompt if mark < 0]
        given = {"pixel_values": pixels[images]} if images else {}
        logits = llava(input_ids=torch.tensor([ids]), **given).logits
        result[f"logits_{index}"] = logits[0].numpy()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    worst = 0.0
    for name in VISION_LANGUAGE:
        states = live_states(name)
        if not check:
            np.savez_compressed(DATA / "states" / f"{name}.npz", **states)
            print(f"{name}: written")
            continue
        stored = TinyVisionLanguage(name).expected()
        difference = max(float(np.abs(stored[part] - states[part]).max()) for part in states)
        print(f"{name}: differs by {difference:.2e}")
        worst = max(worst, difference)
    return 1 if worst > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main())
