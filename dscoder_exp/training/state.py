"""What a run needs to go on, beside the weights: training.json in its checkpoint, and the moments (moments.py).

Neither belongs to the checkpoint's record: without them it is a model still. Never imports mindspore.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.storage.json_files import read_json, write_json
from dscoder_exp.tracking.run import MetricValue

STATE_FILE = "training.json"
RESUME = "train.resume"
START_ANEW = "output_dir=DIR for a new run; model.path=CHECKPOINT starts it from these weights"


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps that are done. The learning rate and the place in the data follow from it.
        skipped: those of them that changed nothing, because their loss or gradient was no number.
        recipe: dotted name -> value of all that the curve depends on; a run that goes on has to agree.
        run_id: of its MLflow run.
        loss_before, answers_before: of the model before training.
        waiting: metrics that MLflow had not taken.
        loss_scale: its value and the steps since it was changed; None: the precision needs none.
    """

    step: int
    skipped: int
    recipe: dict[str, Any]
    run_id: str | None
    loss_before: float | None
    answers_before: list[str]
    waiting: list[MetricValue]
    loss_scale: tuple[float, int] | None


@dataclass(frozen=True)
class TrainingState(Progress):
    """A run's progress, and what its checkpoint adds.

    Attributes:
        eval_loss: measured after the step; None: it wasn't.
        best_loss: the lowest eval loss so far.
        optimizer: which file holds which moments, as moments.py records it.
    """

    eval_loss: float | None
    best_loss: float | None
    optimizer: dict[str, Any]


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint of a run's directory, linked or not yet (each is whole); None where it has none."""
    found = sorted((output_dir / "checkpoints").glob("step-*"))
    return found[-1].resolve() if found else None


def write_state(directory: Path, state: TrainingState) -> None:
    write_json(directory / STATE_FILE, asdict(state))


def read_state(checkpoint: Path) -> TrainingState:
    """
    Raises:
        Refused: the checkpoint has none (saved without train.save_every), or it is damaged.
    """
    file = checkpoint / STATE_FILE
    if not file.is_file():
        what = f"{checkpoint} holds weights alone: a run without train.save_every keeps no optimizer state at its end"
        raise refuse(RESUME, what, START_ANEW)
    values = read_json(file, RESUME)
    try:
        lost = [name for name in values["optimizer"]["files"] if not (checkpoint / name).is_file()]
        if lost:
            raise refuse(RESUME, f"{checkpoint / lost[0]} is missing", "take an earlier checkpoint")
        values["waiting"] = [MetricValue(*item) for item in values["waiting"]]
        values["loss_scale"] = values["loss_scale"] and tuple(values["loss_scale"])
        return TrainingState(**values)
    except (KeyError, TypeError) as error:
        raise refuse(str(file), f"damaged: {error!r}", "take an earlier checkpoint") from error


def refuse_other(state: TrainingState, recipe: dict[str, Any], checkpoint: Path) -> None:
    """Raise Refused, with every difference, where the run that left `state` was another than `recipe`'s.

    Names that only one of them has are left out: what is known before the data are prepared is compared then.
    """
    problems = [
        Problem(name, f"{_shown(recipe[name])}, but {checkpoint} was trained with {_shown(state.recipe[name])}")
        for name in recipe
        if name in state.recipe and recipe[name] != state.recipe[name]
    ]
    if problems:
        *others, final = problems
        remedy = f"train.resume goes on with the very same run; {START_ANEW}"
        raise Refused([*others, Problem(final.where, final.what, remedy)])


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
