"""training.json: what resuming a run needs beside a checkpoint's weights and moments (moments.py).

checkpoint.json lists neither this file nor the moments: without them a checkpoint is still a complete model. Never
imports mindspore.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.storage.json_files import read_json, write_json

STATE_FILE = "training.json"
RESUME = "train.resume"
START_ANEW = "output_dir=DIR for a new run; model.path=CHECKPOINT starts it from these weights"
AGAIN = "copy the checkpoint again, or output_dir=DIR for a new run"  # shown where none is whole
EARLIER = "move the checkpoint elsewhere; train.resume then takes the one before"


class WeightsAlone(Refused):
    """A checkpoint without the optimizer state that a resumed run needs."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps done, skipped ones included; determines the learning rate and the position in the data.
        skipped: steps that changed nothing, because their loss or gradient was NaN or infinite.
        recipe: dotted name -> value of all that the loss curve depends on; a resumed run must have the same.
        run_id: the MLflow run; None: not tracked.
        loss_before: eval loss of the model before training, nats a token; None: no rows are held out.
        answers_before: that model's answers to train.prompts.
        loss_scale: LossScale.state.
    """

    step: int
    skipped: int
    recipe: dict[str, Any]
    run_id: str | None
    loss_before: float | None
    answers_before: list[str]
    loss_scale: tuple[float, int] | None


@dataclass(frozen=True)
class TrainingState(Progress):
    """A run's progress, and what its checkpoint adds: the content of training.json.

    Attributes:
        eval_loss: eval loss after the step, nats a token; None: it wasn't measured.
        best_loss: the lowest eval loss so far; None: none was measured.
        optimizer: record of the files that hold the moments; see moments.py.
    """

    eval_loss: float | None
    best_loss: float | None
    optimizer: dict[str, Any]


def write_state(directory: Path, state: TrainingState) -> None:
    write_json(directory / STATE_FILE, asdict(state))


def read_state(checkpoint: Path) -> TrainingState:
    """Read a checkpoint's training.json.

    Raises:
        WeightsAlone: the checkpoint has none (saved without train.save_every).
        Refused: it is damaged, or a file of the optimizer's state is missing.
    """
    file = checkpoint / STATE_FILE
    if not file.is_file():
        if any(checkpoint.glob("optimizer*.safetensors")):
            raise refuse(RESUME, f"{file} is missing", AGAIN)
        what = f"{checkpoint} holds weights alone: without train.save_every a finished run saves no optimizer state"
        raise WeightsAlone([Problem(RESUME, what, START_ANEW)])
    values = read_json(file, RESUME)
    try:
        missing = [name for name in values["optimizer"]["files"] if not (checkpoint / name).is_file()]
        if missing:
            raise refuse(RESUME, f"{checkpoint / missing[0]} is missing", AGAIN)
        values.pop("waiting", None)  # see waiting_metrics
        values["loss_scale"] = values["loss_scale"] and tuple(values["loss_scale"])
        return TrainingState(**values)
    except (KeyError, TypeError) as error:
        raise refuse(str(file), f"damaged: {error!r}", AGAIN) from error


def waiting_metrics(checkpoint: Path) -> list[tuple[str, float, int, int]]:
    """Metrics that MLflow didn't have yet when a version before the spool saved the checkpoint.

    Each is a name, the value, when it was measured in milliseconds since the epoch, and the step.
    """
    return [tuple(item) for item in read_json(checkpoint / STATE_FILE, RESUME).get("waiting", [])]


def refuse_changed_recipe(state: TrainingState, recipe: dict[str, Any], checkpoint: Path) -> None:
    """Raise Refused with every difference between `recipe` and that of the run that wrote `checkpoint`.

    Names that only one of the two has are ignored, so that the part of a recipe that is known before the data are
    prepared can be compared early.
    """
    problems = [
        Problem(name, f"{_as_json(recipe[name])}, but {checkpoint} was trained with {_as_json(state.recipe[name])}")
        for name in recipe
        if name in state.recipe and recipe[name] != state.recipe[name]
    ]
    if problems:
        *others, final = problems
        remedy = f"a resumed run keeps these values; {START_ANEW}"
        raise Refused([*others, Problem(final.where, final.what, remedy)])


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
