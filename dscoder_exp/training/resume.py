"""Whether a run goes on from a checkpoint in its directory, and whether it is the same run. Never imports mindspore."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dscoder_exp.data.report import Prepared, read_report
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem, Refused
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.training.state import RESUME, TrainingState, last_checkpoint, read_state, refuse_other
from dscoder_exp.weights.lora.adapter import Factors, read_adapter
from dscoder_exp.weights.lora.setup import first_factors, refuse_other_base, trained_lora
from dscoder_exp.weights.resolve import OpenedModel
from dscoder_exp.weights.source import open_weights


@dataclass(frozen=True)
class Resumed:
    """A checkpoint that a run goes on from."""

    checkpoint: Path
    state: TrainingState


def find_resumed(config: Config) -> Resumed | None:
    """The last checkpoint of `output_dir`, where train.resume wants it and there is one.

    Raises:
        Refused: it holds no state, or a damaged one.
    """
    if config.task.name != "train" or config.train.resume is None:
        return None
    checkpoint = last_checkpoint(Path(config.output_dir))
    return checkpoint and Resumed(checkpoint, read_state(checkpoint))


def recipe_of(config: Config) -> dict[str, Any]:
    """Dotted key -> value of what the curve depends on and the configuration alone says.

    How long the run is, is not among it: a run may be made longer (its schedule then follows the new length). How a
    step's sequences are shared out over ranks and micro steps isn't either: the sums are the same, up to rounding.
    """
    optim, adapter = asdict(config.optim), asdict(config.adapter)
    del adapter["path"]  # where the factors began, which the checkpoint has left behind
    return {
        "seed": config.seed,
        "seq_length": config.seq_length,
        "train.global_batch_size": config.train.global_batch_size,
        "runtime.precision": config.runtime.precision,
        **{f"optim.{name}": value for name, value in optim.items()},
        **{f"adapter.{name}": value for name, value in adapter.items()},
    }


def resume_problems(config: Config, opened: OpenedModel) -> list[Problem]:
    """What keeps the run from going on, as far as it is known before the data are prepared."""
    try:
        if (resumed := find_resumed(config)) is not None:
            refuse_other(resumed.state, recipe_of(config) | _shape(opened.config), resumed.checkpoint)
            factors_of(config, opened, resumed)
    except Refused as refused:
        return list(refused.problems)
    return []


def same_run(config: Config, model: LlamaConfig, prepared: Prepared, resumed: Resumed | None) -> dict[str, Any]:
    """The run's whole recipe.

    Raises:
        Refused: the run that goes on was another one, with every difference.
    """
    recipe = _whole_recipe(config, model, prepared)
    if resumed is not None:
        refuse_other(resumed.state, recipe, resumed.checkpoint)
    return recipe


def weights_of(config: Config, opened: OpenedModel, resumed: Resumed | None) -> OpenedModel:
    """The model with the weights that it has now; those beside LoRA's factors stay what they were."""
    if resumed is None or trained_lora(config) is not None:
        return opened
    return replace(opened, source=open_weights(str(resumed.checkpoint), RESUME), adapter=None)


def factors_of(config: Config, opened: OpenedModel, resumed: Resumed | None) -> Factors | None:
    """What LoRA trains, with the values that it has now; None where the weights are trained.

    Raises:
        Refused: the run that goes on trained beside other weights.
    """
    if (lora := trained_lora(config)) is None:
        return None
    if resumed is None:
        return first_factors(config, opened, lora)
    adapter = read_adapter(str(resumed.checkpoint), RESUME)
    refuse_other_base(adapter, opened, config.seed, "model.path")
    return Factors(lora, adapter.factors)


def _whole_recipe(config: Config, model: LlamaConfig, prepared: Prepared) -> dict[str, Any]:
    """All of it, the data as their data.json tells what they were made from."""
    stored = read_report(prepared.directory)
    data = stored.made_from if stored else {}
    return recipe_of(config) | _shape(model) | {f"data.{name}": value for name, value in data.items()}


def _shape(model: LlamaConfig) -> dict[str, Any]:
    return {f"model.{name}": value for name, value in asdict(model).items()}
