"""Settles an export: joins checkpoint, model definition, board and what was asked for into a plan.

Rule: whatever contradicts is refused here, before anything large is read, so that the pipeline only
carries out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, cast, get_args

from edgewise.exporter.checkpoint import Checkpoint, check_tensors
from edgewise.exporter.models import Definition, family_of, find_model
from edgewise.exporter.models.config_sizes import check_sizes
from edgewise.exporter.models.decoder import DecoderConfiguration
from edgewise.exporter.models.vision_language import VisionLanguageConfiguration
from edgewise.exporter.plan import Configuration, ExportPlan, PlanError, RuntimeName
from edgewise.exporter.quantize.lookup_blocks import with_lookups
from edgewise.exporter.quantize.recipes import ROLES, Recipe
from edgewise.firmware_profiles import Profile, RecipeChoice
from edgewise.firmware_profiles.profile import RuntimeChoice, problems_with_cache_dtype
from edgewise.runtime.manifest import CacheType, Family

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)  # what this version writes
# In place of a board's 4 bits, which are for decoding: that reads all weights for every token. An
# encoder reads them once for a whole text, gains nothing and loses directions (MiniLM: a cosine of
# 0.97 in place of 0.998).
ENCODER_RECIPE = "int8"
TRACED_RUNTIME: RuntimeName = "onnx"  # what runs graphs of another program
HEAD_SIZE_MULTIPLE = 8  # features; onnxruntime's GroupQueryAttention takes only such heads


class TracedDefinition(Definition, Protocol):
    """What is known of a model whose graph another program traced."""

    @property
    def family(self) -> Family:
        """What kind of model it is."""
        ...


def make_plan(
    checkpoint: Checkpoint,
    profile: Profile,
    *,
    runtime: str | None = None,
    recipe: str | None = None,
    context_length: int | None = None,
    cache_dtype: str | None = None,
    traced: TracedDefinition | None = None,
    drafts: bool = False,
) -> ExportPlan:
    """Settle an export.

    Args:
        checkpoint: The opened checkpoint; no weight is read.
        profile: The board.
        runtime: "onnx", "tflite" or "litertlm", or None for the profile's choice.
        recipe: A recipe's text, or None for the profile's choice (of an encoder int8, where that
            has 4 bits). An embedding whose rows are no multiple of its blocks gets the nearest
            format that onnxruntime looks up.
        context_length: Tokens of cache, of an encoder's text, or of an encoder-decoder's source
            and of its answer; None for the most that model and profile allow.
        cache_dtype: "float32", "float16" or "int8": how a decoder's keys and values are kept; None
            for the profile's choice, where recipe and graph do not speak against it.
        traced: What a graph that another program traced says of the model; None for one that has a
            definition here.
        drafts: Whether a TFLite file gets graphs that check drafts; ONNX graphs always do.

    Raises:
        EdgewiseError: The model type is unknown, a tensor is missing or misshapen, no kernel takes
            its heads, the recipe can not work on the board, nothing drafts for such a model, or the
            runtime or context is not available.
    """
    architecture = str(checkpoint.config["model_type"])
    definition = find_model(architecture) if traced is None else traced
    family = family_of(architecture) if traced is None else traced.family
    if traced is None:
        check_sizes(checkpoint.config)
    configuration = definition.configuration(checkpoint.config)
    tensors = definition.tensors(configuration)
    if traced is None:
        check_tensors(
            checkpoint.tensors,
            {name: tensor.shape for name, tensor in tensors.items()},
            definition.ignored,
        )
        chosen_runtime = _available_runtime(profile, runtime)
        _check_held(family, configuration, chosen_runtime)
    else:
        chosen_runtime = TRACED_RUNTIME
    if drafts:
        _check_drafts(family, chosen_runtime, is_traced=traced is not None)
    context = _checked_context(configuration, profile, context_length)
    # LiteRT-LM computes with LiteRT: the same formats, the same memory.
    engine = "tflite" if chosen_runtime == "litertlm" else chosen_runtime
    settled = _checked_recipe(profile, engine, recipe, family)
    plan = ExportPlan(
        model_id=checkpoint.origin.name.rsplit("/", 1)[-1].removeprefix("package:"),
        architecture=architecture,
        family=family,
        definition=definition,
        configuration=configuration,
        tensors=tensors,
        profile=profile.for_runtime(engine),
        runtime=chosen_runtime,
        recipe=settled,
        context_length=context,
        source_length=context if family == "encoder_decoder" else None,
        is_traced=traced is not None,
        drafts=drafts,
        cache_dtype=_checked_cache_dtype(
            cache_dtype,
            chosen_runtime,
            profile.runtime_choice(engine),
            family,
            loses_nothing=_loses_nothing(settled),
            is_traced=traced is not None,
        ),
    )
    if engine != "onnx":
        return plan
    shapes = (tensor.shape for tensor in tensors.values() if tensor.role == "embedding")
    widths = [shape[1] for shape in shapes if len(shape) == 2]
    return replace(plan, recipe=with_lookups(plan.recipe, widths, tied_head=plan.tied_head))


def check_traceable(
    family: Family, profile: Profile, *, runtime: str | None, recipe: str | None
) -> None:
    """Refuse what can not be done with a graph of another program, before it is made.

    Args:
        family: Of the model.
        profile: The board.
        runtime: As `make_plan` takes it.
        recipe: As `make_plan` takes it.

    Raises:
        EdgewiseError: The runtime is not onnx, or the recipe can not work on the board.
    """
    if runtime not in (None, TRACED_RUNTIME):
        raise PlanError(
            f"{runtime!r} was asked for; a graph that Optimum traces is exported for "
            f"{TRACED_RUNTIME} only: leave --format out"
        )
    _checked_recipe(profile, TRACED_RUNTIME, recipe, family)


def _check_held(family: Family, configuration: Configuration, runtime: str) -> None:
    """Refuse what a runtime has no graphs or kernels for."""
    scores = isinstance(configuration, DecoderConfiguration) and configuration.labels
    if runtime == "litertlm" and (family != "decoder" or scores):
        kind = "decoder that scores" if scores else family.replace("_", "-")
        raise PlanError(
            f"this checkpoint is of the kind {kind}, for which a .litertlm file has no place: "
            "LiteRT-LM only generates with decoders. Use --format tflite or onnx"
        )
    c = configuration
    decoder = c.text if isinstance(c, VisionLanguageConfiguration) else c
    is_held = runtime != "onnx" or not isinstance(decoder, DecoderConfiguration)
    if not is_held and decoder.head_size % HEAD_SIZE_MULTIPLE:
        raise PlanError(
            f"the attention heads of this model have {decoder.head_size} features; "
            f"onnxruntime attends to heads of a multiple of {HEAD_SIZE_MULTIPLE} only. "
            "Use --format tflite"
        )


def _check_drafts(family: Family, runtime: str, *, is_traced: bool) -> None:
    """Refuse drafts for what can not check any."""
    if family == "decoder" and runtime != "litertlm" and not is_traced:
        return
    kind = family.replace("_", "-")
    what = "a graph that Optimum traced" if is_traced else f"a model of the kind {kind}"
    raise PlanError(
        f"drafts were asked for with {what} for {runtime}; accepted: a decoder that is built here, "
        "with --format onnx or tflite. Leave --drafts out"
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


def _checked_recipe(profile: Profile, runtime: str, text: str | None, family: Family) -> Recipe:
    if text is None:
        own = Recipe.parse(str(profile.recipe_for(runtime)))
        has_4_bits = any(own.format_for(role).bits == 4 for role in ROLES)
        return Recipe.parse(ENCODER_RECIPE) if family == "encoder" and has_4_bits else own
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


def _checked_cache_dtype(
    asked: str | None,
    runtime: RuntimeName,
    choice: RuntimeChoice,
    family: Family,
    *,
    loses_nothing: bool,
    is_traced: bool,
) -> CacheType:
    """Return how keys and values are kept: as asked, or as the board does where that is possible.

    A recipe that loses nothing of the weights is for those who want to lose nothing.
    """
    if asked is None and loses_nothing:
        return "float32"
    dtype = choice.cache_dtype if asked is None else asked
    problems = problems_with_cache_dtype(dtype, runtime=choice.name)
    if is_traced and dtype != "float32":
        problems.append("the graph of another program keeps float32")
    if runtime == "litertlm" and dtype != "float32":
        problems.append("LiteRT-LM keeps float32")
    if choice.userland == "armv7l" and dtype == "int8":
        problems.append("tflite-runtime has not been tried with int8; use 'float32'")
    if family == "encoder":
        problems.append("an encoder keeps nothing")
    elif dtype == "int8" and family != "decoder":
        problems.append("the steps of int8 are measured on texts, for decoders of text alone")
    if problems and asked is not None:
        raise PlanError(f"a cache of {asked} was asked for: {'; '.join(problems)}")
    return "float32" if problems else cast(CacheType, dtype)


def _loses_nothing(recipe: Recipe) -> bool:
    kinds = {recipe.format_for(role).kind for role in ROLES}
    return recipe.activations == "float32" and kinds <= {"float32", "keep"}


def _checked_context(configuration: Configuration, profile: Profile, asked: int | None) -> int:
    if asked is None:
        context = min(configuration.context_length, profile.max_context)
        _check_image_fits(configuration, context)
        return context
    if not 1 <= asked <= configuration.context_length:
        raise PlanError(
            f"a context of {asked} tokens was asked for; this model was made for 1 to "
            f"{configuration.context_length}"
        )
    _check_image_fits(configuration, asked)
    return asked


def _check_image_fits(configuration: Configuration, context: int) -> None:
    if not isinstance(configuration, VisionLanguageConfiguration):
        return
    if context <= configuration.vision.tokens:
        raise PlanError(
            f"an image takes {configuration.vision.tokens} tokens of this model's context, and "
            f"{context} are to be held; give more with --context, up to "
            f"{configuration.context_length}"
        )
