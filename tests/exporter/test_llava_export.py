"""Whole exports of a tiny LLaVA, in the layouts of several versions of transformers."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_images import CLIP_MEAN, CLIP_STD
from tiny_vision_language import TinyVisionLanguage

from edgewise.exporter import export
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_image import NumpyImageBuilder
from edgewise.exporter.image_processing import ImageProcessingError
from edgewise.exporter.prompts import find_prompt
from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.fake_bundle import byte_tokenizer
from edgewise.runtime.bundle import ImageLayout
from edgewise.runtime.images import pixels_of

# As vicuna's tokenizer has them; byte_tokenizer counts from 0.
SPECIAL = ("<unk>", "<s>", "</s>", "<image>")
PARTS_TEMPLATE = (
    "{% for message in messages %}{% for content in message['content'] "
    "| selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}{% endfor %}"
)


def old_name(name):
    """Return what transformers 4 before 4.52 calls a tensor."""
    if name.startswith("model."):
        return f"language_model.{name}"
    return f"language_model.{name}" if name.startswith("lm_head.") else name


def new_name(name):
    """Return what later releases of transformers 4 call it."""
    if name.startswith("model."):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name if name.startswith("lm_head.") else f"model.{name}"


@pytest.fixture(scope="module")
def model():
    return TinyVisionLanguage("llava")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Write the folder, once: nobody may change it."""
    path = tmp_path_factory.mktemp("vision") / "tiny-llava"
    model.write(path)
    (path / "tokenizer.json").write_text(byte_tokenizer(SPECIAL).to_str())
    (path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "bos_token": "<s>"})
    )
    (path / "chat_template.jinja").write_text(PARTS_TEMPLATE)
    return path


@pytest.fixture
def changed(folder, tmp_path):
    """Return a function that gives a copy of the folder with other names, or other files."""

    def copy(name_of=None, **files):
        path = tmp_path / "changed"
        shutil.copytree(folder, path)
        if name_of is not None:
            arrays = load_file(path / "model.safetensors")
            renamed = {name_of(name): array for name, array in arrays.items()}
            save_file(renamed, path / "model.safetensors")
        for name, content in files.items():
            (path / f"{name}.json").write_text(json.dumps(content))
        return path

    return copy


def exported(folder, output, runtime="onnx", **options):
    return export(
        str(folder),
        profile="raspberry_pi_5",
        runtime=runtime,
        recipe="fp32",
        output=output,
        **options,
    )


def weights_of(report):
    return {file.role: file.sha256 for file in report.bundle.manifest.files}


@pytest.mark.parametrize("name_of", [old_name, new_name])
def test_every_layout_gives_the_same_bundle(folder, changed, tmp_path, name_of):
    expected = exported(folder, tmp_path / "one")
    assert expected.verification is not None
    assert expected.verification.passed
    other = exported(changed(name_of), tmp_path / "other")
    assert weights_of(other) == weights_of(expected)


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_an_answer_is_the_reference_s_own(folder, model, tmp_path, runtime):
    report = exported(folder, tmp_path / "b", runtime)
    manifest = report.bundle.manifest
    layout = ImageLayout(42, CLIP_MEAN, CLIP_STD, "none", tokens=9)
    assert manifest.image == layout
    assert manifest.parameters == sum(array.size for array in model.arrays.values())
    image = model.images()[0]
    seen = NumpyImageBuilder(pixels_of(image, layout)[None])
    model.see(seen)
    features = seen.outputs["image_features"]
    with load(report.bundle.path, threads=1) as loaded:
        text = "USER: <image>\nwhy ASSISTANT:"
        first, second = (loaded.tokenizer.encode(part) for part in text.split("<image>"))
        prompt, answer = [*first, -1, *second], []
        table = model.arrays["model.embed_tokens.weight"]
        for _ in range(6):
            builder = NumpyBuilder(model.spliced([*prompt, *answer], table, features))
            model.forward(builder)
            answer.append(int(np.argmax(builder.logits[0, -1, : manifest.sampled_vocabulary])))
            if answer[-1] in manifest.tokens.end:
                break
        options = GenerationOptions(raw=True, temperature=0.0, max_tokens=6)
        assert list(loaded.generate(text, options, images=[image]).token_ids) == answer
        asked = loaded.generate("why", GenerationOptions(temperature=0.0, max_tokens=6))
        assert asked.statistics.prompt_tokens == 1 + len("USER: why ASSISTANT:")


def test_a_template_of_parts_gives_way_to_the_model_s_prompt(folder, tmp_path):
    bundle = exported(folder, tmp_path / "b").bundle
    assert bundle.read_text("chat_template") == find_prompt("llava").template
    assert bundle.manifest.chat.rendered.startswith("<s>USER: ")


@pytest.mark.parametrize(
    ("processor", "padding"),
    [({"do_pad": True}, "mean"), ({"do_pad": False}, "none"), ({"image_mean": [0.5] * 3}, "none")],
)
def test_the_image_processor_says_how_an_image_becomes_a_square(
    model, changed, tmp_path, processor, padding
):
    content = model.image_processor() | processor
    path = changed(processor_config={"image_processor": content, "patch_size": 14})
    (path / "preprocessor_config.json").unlink()
    image = exported(path, tmp_path / "b", verification=False).bundle.manifest.image
    assert image.padding == padding
    assert image.mean == tuple(content["image_mean"])


def test_an_image_that_would_be_bent_is_refused(model, changed, tmp_path):
    content = model.image_processor() | {"do_center_crop": False}
    with pytest.raises(ImageProcessingError, match="do_center_crop is false, and no bars"):
        exported(changed(preprocessor_config=content), tmp_path / "b")
