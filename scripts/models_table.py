"""Write docs/models.md: which models there are, what they do, and how exactly they are computed.

Everything comes from the code: model types and their families, the first line of each definition,
the tasks of its heads, the formats that a runtime takes, and the largest difference of each builder
from transformers on the tiny checkpoints of the tests.

    python scripts/models_table.py           # measure, write docs/models.md
    python scripts/models_table.py --check   # exit with 1 if it is not what the code gives
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from decoder_graphs import built, step  # noqa: E402 - found by the line above
from family_graphs import build, open_encoder, open_encoder_decoder  # noqa: E402 - as above
from tiny_checkpoint import CASES, TinyModel, load_case  # noqa: E402 - as above
from tiny_families import (  # noqa: E402 - as above
    ENCODER_DECODERS,
    ENCODERS,
    TinyEncoder,
    TinyEncoderDecoder,
)
from tiny_vision_language import VISION_LANGUAGE, TinyVisionLanguage  # noqa: E402 - as above
from vision_language_graphs import built as built_with_vision  # noqa: E402 - as above

from edgewise.common.errors import EdgewiseError  # noqa: E402 - as above
from edgewise.exporter.graph.numpy_builder import NumpyBuilder  # noqa: E402 - as above
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder  # noqa: E402 - as above
from edgewise.exporter.graph.numpy_image import NumpyImageBuilder  # noqa: E402 - as above
from edgewise.exporter.models import family_of, find_model, model_types  # noqa: E402 - as above
from edgewise.exporter.models.vision_language import IMAGE_FEATURES  # noqa: E402 - as above
from edgewise.firmware_profiles.recipe import (  # noqa: E402 - as above
    FORMATS,
    RecipeChoice,
    problems_with_recipe,
)

DOCUMENT = ROOT / "docs" / "models.md"
BUILDERS = ("numpy", "onnx", "tflite")
HEADS = {  # an encoder's head and its task
    "features": "embed",
    "masked_language_model": "fill-mask",
    "classification": "classify",
    "token_classification": "token-classify",
}
# Types without a tiny checkpoint of their own: the same passes under other names or defaults.
HYPHENATED = {"phi_msft", "xlm_roberta"}  # in config.json
SAME_AS = {"mt5": "t5", "phi_msft": "phi", "xlm_roberta": "roberta"}
HEAD = """\
# Models

What `edgewise export` takes, by the `model_type` of config.json. A difference is the largest of a
float32 graph's results from those of `transformers`, over tiny random checkpoints whose logits span
more than 1; the graphs of ONNX and TFLite are run by their engines. "as" says that a type has the
same passes as another.

"""
TAIL = """\

Several texts at once may be padded on either side. `embed`, `classify` and the like take texts, and
every row counts its own tokens. Who brings ids of another tokenizer gives them with their attention
mask, `EncoderModel.encode(token_ids, attention_mask)`, and `generate_rows` of the other models:
a row's numbers are those of the row alone, to 1e-4 and for every type above. Its positions are
counted from its first real token. `transformers` does the same for RoBERTa, T5 and what it
generates with; for BERT it takes such `position_ids` from the caller, and for DistilBERT and BART
it knows no padding before the tokens of an encoder.

Another type can be exported by adding one file to `exporter/models`, or as it is by
`edgewise export --via optimum` ([how](cli.md#a-model-type-that-is-not-known)). The formats of the
weights, for every type:

{formats}

An int8 format without blocks has a scale for each row and is multiplied with int8 activations.
Formats may differ by role, as `int4,head=int8-block32`; an export says what suits a board.

`scripts/models_table.py` writes this page.
"""

Figures = dict[tuple[str, str], float]  # largest difference by model type and builder


def document(figures: Figures) -> str:
    """Return the whole page.

    Args:
        figures: Largest differences; the page shows the power of ten above each.
    """
    lines = [
        "| model type | models | family | tasks | numpy | ONNX | TFLite |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in model_types():
        shown = [_shown(name, figures.get((name, builder))) for builder in BUILDERS]
        written = name.replace("_", "-") if name in HYPHENATED else name
        row = (f"`{written}`", _models(name), family_of(name).replace("_", "-"), _tasks(name))
        lines.append(f"| {' | '.join((*row, *shown))} |")
    return HEAD + "\n".join(lines) + "\n" + TAIL.format(formats=_formats())


def _shown(name: str, difference: float | None) -> str:
    if name in SAME_AS:
        return f"as `{SAME_AS[name]}`"
    if difference is None:
        return "not measured"
    return f"< 1e{math.ceil(math.log10(difference))}"


def _models(name: str) -> str:
    """Return what the first sentence of a definition says it is for."""
    text = (sys.modules[find_model(name).__name__].__doc__ or "").split("\n\n")[0]
    return re.sub(r"\s+", " ", text.partition("``: ")[2]).rstrip(".")


def _tasks(name: str) -> str:
    family = family_of(name)
    cases = _cases(SAME_AS.get(name, name))
    if family == "encoder":
        heads = {case.configuration.head for case in cases}
        return ", ".join(task for head, task in HEADS.items() if head in heads)
    if family == "vision_language":
        return "generate, with images"
    tasks = ["generate"]
    if family == "decoder" and _scores(cases[0]):
        tasks.append("score")
    return ", ".join(tasks)


def _scores(case: TinyModel) -> bool:
    changed = case.case.config | {"architectures": ["ModelForSequenceClassification"]}
    try:
        return bool(case.definition.configuration(changed).labels)
    except EdgewiseError:
        return False


def _formats() -> str:
    """List what each runtime takes for the matrices of a model."""
    rows = []
    for runtime in ("onnx", "tflite"):
        taken = []
        for text in FORMATS:
            activations = "int8" if text.startswith("int") else "float32"
            choice = RecipeChoice.uniform(text, activations=activations)
            features = ("neon", "dotprod")
            if not problems_with_recipe(
                choice, runtime=runtime, userland="aarch64", features=features
            ):
                taken.append(f"`{text}`")
        rows.append(f"- {runtime}: {', '.join(taken)}")
    return "\n".join(rows)


def _cases(name: str) -> list[Any]:
    """Return the tiny checkpoints of a model type."""
    kinds = {
        "decoder": lambda: (TinyModel(load_case(case)) for case in CASES),
        "encoder": lambda: map(TinyEncoder, ENCODERS),
        "encoder_decoder": lambda: map(TinyEncoderDecoder, ENCODER_DECODERS),
        "vision_language": lambda: map(TinyVisionLanguage, VISION_LANGUAGE),
    }
    return [case for case in kinds[family_of(name)]() if _type_of(case) == name]


def _type_of(case: Any) -> str:
    config = case.case.config if isinstance(case, TinyModel) else case.config
    return str(config["model_type"]).replace("-", "_")


def measured(builders: tuple[str, ...] = BUILDERS) -> Figures:
    """Return the largest difference from transformers of each model type and builder."""
    figures: Figures = {}
    for name in model_types():
        for case in [] if name in SAME_AS else _cases(name):
            for builder in builders:
                difference = _difference(case, builder)
                figures[name, builder] = max(figures.get((name, builder), 0.0), difference)
    return figures


def _difference(case: Any, builder: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(case, TinyModel):
            return _decoder_difference(case, builder, Path(folder))
        if isinstance(case, TinyEncoder):
            return _encoder_difference(case, builder, Path(folder))
        if isinstance(case, TinyVisionLanguage):
            return _vision_difference(case, builder, Path(folder))
        return _pair_difference(case, builder, Path(folder))


def _decoder_difference(model: TinyModel, builder: str, folder: Path) -> float:
    sequence, expected = model.case.sequences[0], model.case.expected_logits()[0]
    if builder == "numpy":
        pass_ = NumpyBuilder(np.asarray([sequence]))
        model.forward(pass_)
        return float(np.abs(pass_.logits[0] - expected).max())
    backend = built(builder, model, folder)
    try:
        rows = [step(backend, 0, [token], past) for past, token in enumerate(sequence)]
        return max(
            float(np.abs(row - want).max()) for row, want in zip(rows, expected, strict=True)
        )
    finally:
        backend.close()


def _encoder_difference(model: TinyEncoder, builder: str, folder: Path) -> float:
    if builder == "numpy":
        pass_ = NumpyEncoderBuilder(model.ids, model.mask, model.types)
        model.forward(pass_)
        results = pass_.outputs
    else:
        build(builder, model, folder)
        results = open_encoder(builder, folder).encode(model.ids, model.counts, model.types)
    largest = 0.0
    for part, expected in model.expected().items():
        actual = results[part].reshape(len(model.ids), -1, expected.shape[-1])
        real = model.mask > 0 if actual.shape[1] > 1 else np.ones((len(actual), 1), bool)
        largest = max(largest, float(np.abs(actual - expected.reshape(actual.shape))[real].max()))
    return largest


def _pair_difference(model: TinyEncoderDecoder, builder: str, folder: Path) -> float:
    expected = model.expected()["logits"]
    if builder == "numpy":
        encoder = NumpyEncoderBuilder(model.ids, model.mask)
        model.encode(encoder)
        decoder = NumpyBuilder(model.targets, encoder=encoder.states)
        model.decode(decoder)
        return float(np.abs(decoder.logits - expected).max())
    build(builder, model, folder)
    backend = open_encoder_decoder(builder, model, folder)
    try:
        backend.read_source(0, model.ids, model.counts)
        largest = 0.0
        for past in range(model.targets.shape[1]):
            pasts = np.full(len(model.targets), past, np.int32)
            logits = backend.step(0, model.targets[:, past : past + 1], pasts)
            largest = max(largest, float(np.abs(logits - expected[:, past]).max()))
        return largest
    finally:
        backend.close()


def _vision_difference(model: TinyVisionLanguage, builder: str, folder: Path) -> float:
    expected, table = model.expected(), model.arrays["model.embed_tokens.weight"]
    if builder == "numpy":
        seen = NumpyImageBuilder(model.pixels())
        model.see(seen)
        features = seen.outputs[IMAGE_FEATURES]
    else:
        backend = built_with_vision(builder, model, folder)
        features = backend.see(model.pixels())
    largest = float(np.abs(features - expected[IMAGE_FEATURES]).max())
    for index, prompt in enumerate(model.prompts):
        vectors, wanted = model.spliced(prompt, table, features), expected[f"logits_{index}"]
        if builder == "numpy":
            decoder = NumpyBuilder(vectors)
            model.forward(decoder)
            difference = np.abs(decoder.logits[0] - wanted)
        else:
            last = backend.step_vectors(0, vectors, np.zeros(1, np.int32))[0]
            difference = np.abs(last - wanted[-1])
        largest = max(largest, float(difference.max()))
    if builder != "numpy":
        backend.close()
    return largest


def bounds_of(page: str) -> Figures:
    """Read the bounds that a page shows."""
    bounds: Figures = {}
    for line in page.splitlines():
        if not line.startswith("| `"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = cells[0].strip("`").replace("-", "_")
        for builder, cell in zip(BUILDERS, cells[-len(BUILDERS) :], strict=True):
            if cell.startswith("< "):
                bounds[name, builder] = float(cell.removeprefix("< "))
    return bounds


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    figures = measured()
    if arguments.check:
        page = DOCUMENT.read_text(encoding="utf-8")
        bounds = bounds_of(page)
        held = all(figures[key] < bounds.get(key, 0.0) for key in figures)
        return int(not held or document(bounds) != page)
    DOCUMENT.write_text(document(figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
