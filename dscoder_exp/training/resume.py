"""Resuming a run: its newest whole checkpoint, and the check that its recipe is unchanged. Never imports mindspore."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dscoder_exp.data.report import Prepared, read_report
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import ADAPTER_FILE, CHECKPOINT_FILE
from dscoder_exp.training.checkpoint_directory import newest_first, restore
from dscoder_exp.training.state import AGAIN, RESUME, TrainingState, WeightsAlone, read_state, refuse_changed_recipe
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.lora.adapter import Factors, read_adapter
from dscoder_exp.weights.lora.setup import first_factors, refuse_other_base, trained_lora
from dscoder_exp.weights.resolve import OpenedModel
from dscoder_exp.weights.source import open_weights


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run is resumed from."""

    checkpoint: Path
    state: TrainingState


def find_resumed(config: Config) -> Resumed | None:
    """The newest whole checkpoint of `output_dir`; None: there is none, train.resume is null, or the task isn't train.

    Raises:
        Refused: none is whole, or the newest whole one holds the weights alone.
    """
    if config.task.name != "train" or config.train.resume is None:
        return None
    broken: Refused | None = None
    for checkpoint in newest_first((Path(config.output_dir) / "checkpoints").resolve()):
        try:
            _refuse_broken(checkpoint)
            return Resumed(checkpoint, read_state(checkpoint))
        except WeightsAlone:
            raise
        except Refused as refused:
            broken = broken or refused
    if broken is not None:
        raise broken
    return None


def restore_copied(config: Config) -> list[str]:
    """Restore the links of a copied `output_dir` before the run is resumed; returns messages for the log."""
    if (resumed := find_resumed(config)) is None:
        return []
    return restore(resumed.checkpoint, resumed.state.step, resumed.state.best_loss)


def _refuse_broken(checkpoint: Path) -> None:
    """Raise Refused where a file is missing or cut short; of weights and moments only the headers are read."""
    if (checkpoint / ADAPTER_FILE).is_file():
        read_adapter(str(checkpoint), RESUME)
    elif (checkpoint / CHECKPOINT_FILE).is_file():
        open_weights(str(checkpoint), RESUME).shapes()
    else:
        raise refuse(RESUME, f"{checkpoint} has neither {CHECKPOINT_FILE} nor {ADAPTER_FILE}", AGAIN)
    for moments in checkpoint.glob("optimizer*.safetensors"):
        read_header(moments, RESUME)


def recipe_of(config: Config) -> dict[str, Any]:
    """Dotted key -> value of the settings that the loss curve depends on, as far as the configuration has them.

    Left out are the run's length, since a run may be made longer (its schedule then follows the new length), and how a
    step's sequences are divided among ranks and micro steps, since the sums are the same up to rounding.
    """
    optim, adapter = asdict(config.optim), asdict(config.adapter)
    del adapter["path"]  # the initial factors; a checkpoint has newer ones
    return {
        "seed": config.seed,
        "seq_length": config.seq_length,
        "train.global_batch_size": config.train.global_batch_size,
        "runtime.precision": config.runtime.precision,
        **{f"optim.{name}": value for name, value in optim.items()},
        **{f"adapter.{name}": value for name, value in adapter.items()},
    }


def resume_problems(config: Config, opened: OpenedModel) -> list[Problem]:
    """Why the run can't be resumed, as far as that is known before the data are prepared."""
    try:
        if (resumed := find_resumed(config)) is not None:
            refuse_changed_recipe(resumed.state, recipe_of(config) | _model_recipe(opened.config), resumed.checkpoint)
            factors_of(config, opened, resumed)
    except Refused as refused:
        return list(refused.problems)
    return []


def checked_recipe(config: Config, model: LlamaConfig, prepared: Prepared, resumed: Resumed | None) -> dict[str, Any]:
    """The run's whole recipe: settings, model and data.

    Raises:
        Refused: it differs from the resumed run's; names every difference.
    """
    recipe = _whole_recipe(config, model, prepared)
    if resumed is not None:
        refuse_changed_recipe(resumed.state, recipe, resumed.checkpoint)
    return recipe


def weights_of(config: Config, opened: OpenedModel, resumed: Resumed | None) -> OpenedModel:
    """The model to load: with the checkpoint's weights where a run is resumed. LoRA's base weights never change."""
    if resumed is None or trained_lora(config) is not None:
        return opened
    return replace(opened, source=open_weights(str(resumed.checkpoint), RESUME), adapter=None)


def factors_of(config: Config, opened: OpenedModel, resumed: Resumed | None) -> Factors | None:
    """LoRA's factors: the checkpoint's where a run is resumed, else the initial ones; None: full fine-tuning.

    Raises:
        Refused: the checkpoint's factors were trained with another base model.
    """
    if (lora := trained_lora(config)) is None:
        return None
    if resumed is None:
        return first_factors(config, opened, lora)
    adapter = read_adapter(str(resumed.checkpoint), RESUME)
    refuse_other_base(adapter, opened, config.seed, "model.path")
    return Factors(lora, adapter.factors)


def _whole_recipe(config: Config, model: LlamaConfig, prepared: Prepared) -> dict[str, Any]:
    """`recipe_of` with the model's configuration and what the prepared data were made from (their data.json)."""
    stored = read_report(prepared.directory)
    data = stored.made_from if stored else {}
    return recipe_of(config) | _model_recipe(model) | {f"data.{name}": value for name, value in data.items()}


def _model_recipe(model: LlamaConfig) -> dict[str, Any]:
    return {f"model.{name}": value for name, value in asdict(model).items()}
