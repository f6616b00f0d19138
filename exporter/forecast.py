"""What an export would need on a board, told from a config.json alone.

Workflow: the model's definition lists its tensors from the configuration; with these shapes in
place of a checkpoint a plan is made as for an export, and its memory is added up as the export's
own check does. Rules: no weight, tokenizer or network; what an export would refuse (an unknown
model type, a recipe that the board can not run) is refused alike, but not fitting is the answer, no
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgewise.exporter.budget import MemoryBudget, memory_budget, model_size, ways_out
from edgewise.exporter.checkpoint import Checkpoint, CheckpointError, Origin, TokenizerFiles
from edgewise.exporter.checkpoint.huggingface_folder import read_json
from edgewise.exporter.checkpoint.rotary_configuration import with_one_rotary_form
from edgewise.exporter.model_size import bytes_by_role
from edgewise.exporter.models import find_model
from edgewise.exporter.models.config_sizes import check_sizes
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.planning import make_plan
from edgewise.firmware_profiles import Profile

_NO_TOKENIZER = TokenizerFiles(
    tokenizer_json="{}",
    chat_template=None,
    beginning_token_id=None,
    end_token_ids=(),
    padding_token_id=None,
    beginning_token=None,
    end_token=None,
    add_beginning_token=False,
)


@dataclass(frozen=True)
class Forecast:
    """A model on a board.

    Attributes:
        plan: What an export would do.
        budget: Its memory, in bytes.
        role_bytes: The memory of the weights by role, in bytes.
        advice: What would fit instead, in clauses; none where it fits.
    """

    plan: ExportPlan
    budget: MemoryBudget
    role_bytes: Mapping[str, int]
    advice: tuple[str, ...]

    @property
    def spare_bytes(self) -> int:
        """What the board has left; negative is what it lacks."""
        return self.budget.usable_bytes - self.budget.total_bytes


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a config.json, or that of a folder.

    Raises:
        CheckpointError: It can not be read, or names no model_type.
    """
    file = path / "config.json" if path.is_dir() else path
    config = read_json(file)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{file.name} names no model_type, such as llama or qwen2.")
    return with_one_rotary_form(config)


def forecast(
    config: Mapping[str, Any],
    profile: Profile,
    *,
    name: str = "the model",
    runtime: str | None = None,
    recipe: str | None = None,
    context_length: int | None = None,
    cache_dtype: str | None = None,
) -> Forecast:
    """Tell what an export would need.

    Args:
        config: The content of a config.json, as `read_configuration` gives it.
        profile: The board.
        name: What to call the model.
        runtime: "onnx", "tflite" or "litertlm", or None for the profile's choice.
        recipe: A recipe's text, or None for the profile's choice.
        context_length: Tokens, or None for the most that model and profile allow.
        cache_dtype: How keys and values are kept, or None for the profile's choice.

    Raises:
        EdgewiseError: The model type is unknown, or what is asked for contradicts model or board.
    """
    plan = make_plan(
        _without_weights(config, name),
        profile,
        runtime=runtime,
        recipe=recipe,
        context_length=context_length,
        cache_dtype=cache_dtype,
    )
    size = model_size(plan)
    budget = memory_budget(
        plan.profile,
        size,
        plan.formats,
        context=plan.context_length,
        activations=plan.activations,
    )
    return Forecast(
        plan=plan,
        budget=budget,
        role_bytes=bytes_by_role(size, plan.formats, plan.profile.runtime, plan.activations),
        advice=() if budget.fits else tuple(ways_out(plan.profile, size, budget)),
    )


@dataclass(frozen=True)
class _Shape:
    """A tensor of which only the shape is known."""

    name: str
    shape: tuple[int, ...]
    stored_type: str = "F16"

    def read(self, start: int = 0, stop: int | None = None) -> NoReturn:
        raise TypeError(f"{self.name}[{start}:{stop}] is read, but a forecast has no weights")

    def read_blocks(self, start: int = 0, stop: int | None = None) -> None:
        del start, stop


def _without_weights(config: Mapping[str, Any], name: str) -> Checkpoint:
    """Make a checkpoint that has the shapes of all tensors, and nothing else."""
    definition = find_model(str(config["model_type"]))
    check_sizes(config)
    tensors = definition.tensors(definition.configuration(config))
    return Checkpoint(
        origin=Origin("folder", name, None, "safetensors", None),
        config=config,
        generation={},
        tensors={key: _Shape(key, tensor.shape) for key, tensor in tensors.items()},
        tokenizer=_NO_TOKENIZER,
    )
