"""Checkpoints saved without their head: their names become those of the whole model."""

from safetensors.numpy import load_file, save_file
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.exporter.checkpoint import check_tensors, open_checkpoint
from edgewise.exporter.checkpoint.base_model_names import with_base_prefix
from edgewise.exporter.models import find_model


def test_a_prefix_is_put_before_all_but_the_head():
    stored = {"wte.weight": 1, "h.0.ln_1.bias": 2, "lm_head.weight": 3, "score.weight": 4}
    assert with_base_prefix(stored, "gpt2") == {
        "transformer.wte.weight": 1,
        "transformer.h.0.ln_1.bias": 2,
        "lm_head.weight": 3,
        "score.weight": 4,
    }


def test_names_that_are_whole_or_of_another_type_stay():
    whole = {"transformer.wte.weight": 1, "lm_head.weight": 2}
    assert with_base_prefix(whole, "gpt2") == whole
    assert with_base_prefix({"wte.weight": 1}, "llama") == {"wte.weight": 1}


def test_gpt2_as_it_was_published_opens(tmp_path):
    folder = write_checkpoint(load_case("gpt2_tied"), tmp_path / "gpt2")
    path = folder / "model.safetensors"
    whole = load_file(path)
    published = {name.removeprefix("transformer."): array for name, array in whole.items()}
    published["h.0.attn.bias"] = whole["transformer.h.0.ln_1.bias"][None, None]  # the causal mask
    save_file(published, path, metadata={"format": "pt"})
    with open_checkpoint(str(folder)) as checkpoint:
        definition = find_model("gpt2")
        tensors = definition.tensors(definition.configuration(checkpoint.config))
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        check_tensors(checkpoint.tensors, shapes, definition.ignored)
        for name in shapes:
            assert (checkpoint.tensors[name].read() == whole[name]).all()
