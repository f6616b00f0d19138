"""What an export will do, settled before anything large is read.

A plan joins the checkpoint's configuration, the model's definition, the profile and what the user
asked for; whatever contradicts is refused here, so that the pipeline only carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.checkpoint import Checkpoint, check_tensors
from edgewise.exporter.graph.protocol import GraphBuilder, Value, Weight
from edgewise.exporter.models import find_model
from edgewise.exporter.models.decoder import DecoderConfiguration, TensorSpecification
from edgewise.exporter.quantize.recipes import ROLES, Recipe
from edgewise.firmware_profiles import Profile, RecipeChoice

RuntimeName = Literal["onnx", "tflite", "litertlm"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)  # what this version writes
HEAD_SIZE_MULTIPLE = 8  # features; onnxruntime's GroupQueryAttention takes only such heads


class PlanError(EdgewiseError):
    """What was asked for contradicts the model, the board or this version."""


@dataclass(frozen=True)
class ExportPlan:
    """Everything an export needs to know besides the weights."""

    model_id: str
    architecture: str
    definition: Any
    configuration: DecoderConfiguration
    tensors: Mapping[str, TensorSpecification]
    profile: Profile
    runtime: RuntimeName
    recipe: Recipe
    context_length: int  # tokens

    @property
    def parameters(self) -> int:
        """Numbers in the checkpoint, tied ones counted once."""
        return sum(tensor.parameters for tensor in self.tensors.values())

    @property
    def formats(self) -> dict[str, str]:
        """Format texts by role."""
        return {role: str(self.recipe.format_for(role)) for role in ROLES}

    @property
    def gate_bits(self) -> int:
        """The precision that verification may expect: the fewest bits of any matrix.

        Kept blocks are the checkpoint's own numbers, so with float32 activations nothing is lost.
        """
        widths = {"float32": 32, "float16": 16, "channel": 8}
        with_int8 = self.recipe.activations == "int8"
        bits = []
        for role in ROLES:
            form = self.recipe.format_for(role)
            if form.kind == "keep":
                bits.append(8 if with_int8 else 32)
            else:
                bits.append(form.bits or widths[form.kind])
        return min(bits)

    def forward(
        self,
        builder: GraphBuilder[Value],
        checkpoint: Checkpoint,
        visited: Callable[[str], None] | None = None,
    ) -> None:
        """Describe the model to a builder, with the checkpoint's tensors as weights.

        Args:
            builder: What the operations are called on.
            checkpoint: Where the weights come from.
            visited: Told the name of each weight as the model comes to it.
        """

        def weight(name: str) -> Weight:
            if visited is not None:
                visited(name)
            return Weight(name, self.tensors[name].role, checkpoint.tensors[name])

        self.definition.forward(builder, self.configuration, weight)


def make_plan(
    checkpoint: Checkpoint,
    profile: Profile,
    *,
    runtime: str | None = None,
    recipe: str | None = None,
    context_length: int | None = None,
) -> ExportPlan:
    """Settle an export.

    Args:
        checkpoint: The opened checkpoint; no weight is read.
        profile: The board.
        runtime: "onnx", "tflite" or "litertlm", or None for the profile's choice.
        recipe: A recipe's text, or None for the profile's choice.
        context_length: Tokens of cache, or None for the most that model and profile allow.

    Raises:
        EdgewiseError: The model type is unknown, a tensor is missing or misshapen, no kernel takes
            its heads, the recipe can not work on the board, or the runtime or context is not
            available.
    """
    architecture = str(checkpoint.config["model_type"])
    definition = find_model(architecture)
    configuration = definition.configuration(checkpoint.config)
    tensors = definition.tensors(configuration)
    check_tensors(
        checkpoint.tensors,
        {name: tensor.shape for name, tensor in tensors.items()},
        definition.ignored,
    )
    chosen_runtime = _available_runtime(profile, runtime)
    if chosen_runtime == "onnx":
        _check_head_size(configuration)
    # LiteRT-LM computes with LiteRT: the same formats, the same memory.
    engine = "tflite" if chosen_runtime == "litertlm" else chosen_runtime
    return ExportPlan(
        model_id=checkpoint.origin.name.rsplit("/", 1)[-1].removeprefix("package:"),
        architecture=architecture,
        definition=definition,
        configuration=configuration,
        tensors=tensors,
        profile=profile.for_runtime(engine),
        runtime=chosen_runtime,
        recipe=_checked_recipe(profile, engine, recipe),
        context_length=_checked_context(configuration, profile, context_length),
    )


def _check_head_size(configuration: DecoderConfiguration) -> None:
    if configuration.head_size % HEAD_SIZE_MULTIPLE:
        raise PlanError(
            f"the attention heads of this model have {configuration.head_size} features; "
            f"onnxruntime attends to heads of a multiple of {HEAD_SIZE_MULTIPLE} only. "
            "Choose another runtime (--format tflite)"
        )


def _available_runtime(profile: Profile, runtime: str | None) -> RuntimeName:
    chosen = runtime if runtime is not None else profile.runtime
    for known in RUNTIMES:
        if chosen == known:
            return known
    asked = "was asked for" if runtime is not None else f"is what {profile.name} runs best"
    raise PlanError(
        f"{chosen!r} {asked}, but this version of Edgewise exports {', '.join(RUNTIMES)} only; "
        f"choose one with --format {RUNTIMES[0]}"
    )


def _checked_recipe(profile: Profile, runtime: str, text: str | None) -> Recipe:
    if text is None:
        return Recipe.parse(str(profile.recipe_for(runtime)))
    recipe = Recipe.parse(text)
    choice = RecipeChoice(
        recipe.name.split("-")[0],
        embedding=str(recipe.embedding),
        attention=str(recipe.attention),
        mlp=str(recipe.mlp),
        head=str(recipe.head),
        activations=recipe.activations,
    )
    if problems := profile.problems_with(choice, runtime):
        raise PlanError(
            f"recipe {text!r} does not suit {profile.name}: {'; '.join(problems)}. "
            f"The profile's own recipe is {profile.recipe_for(runtime)}"
        )
    return recipe


def _checked_context(
    configuration: DecoderConfiguration, profile: Profile, asked: int | None
) -> int:
    if asked is None:
        return min(configuration.context_length, profile.max_context)
    if not 1 <= asked <= configuration.context_length:
        raise PlanError(
            f"a context of {asked} tokens was asked for; this model was made for 1 to "
            f"{configuration.context_length}"
        )
    return asked
