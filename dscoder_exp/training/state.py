"""What a run needs to go on, beside the weights: training.json and optimizer.safetensors in its checkpoint.

Neither belongs to the checkpoint's record: without them it is a model still. Never imports mindspore.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.tracking.run import MetricValue
from dscoder_exp.weights.hf_config import read_json
from dscoder_exp.weights.record import write_json
from dscoder_exp.weights.safetensors_file import read_header, safetensors_layout
from dscoder_exp.weights.stored import Entry, TensorWriter, chunks, read_rows

STATE_FILE, OPTIMIZER_FILE = "training.json", "optimizer.safetensors"
RESUME = "train.resume"
START_ANEW = "output_dir=DIR for a new run; model.path=CHECKPOINT starts it from these weights"
MOMENTS = ("first", "second")


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after a step.

    Attributes:
        step: optimizer steps that are done. The learning rate and the place in the data follow from it.
        skipped: those of them that changed nothing, because their loss or gradient was no number.
        recipe: dotted name -> value of all that the curve depends on; a run that goes on has to agree.
        run_id: of its MLflow run.
        eval_loss: measured after it; None: it wasn't.
        best_loss: the lowest eval loss so far.
        loss_before, answers_before: of the model before training.
        waiting: metrics that MLflow had not taken.
        loss_scale: its value and the steps since it was changed; None: the precision needs none.
    """

    step: int
    skipped: int
    recipe: dict[str, Any]
    run_id: str | None
    eval_loss: float | None
    best_loss: float | None
    loss_before: float | None
    answers_before: list[str]
    waiting: list[MetricValue]
    loss_scale: tuple[float, int] | None


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint of a run's directory, linked or not yet (each is whole); None where it has none."""
    found = sorted((output_dir / "checkpoints").glob("step-*"))
    return found[-1].resolve() if found else None


def write_state(directory: Path, state: TrainingState, moments: Iterable[tuple[str, Sequence[NDArray]]]) -> None:
    """
    Args:
        moments: (name of a weight, its first and second moment, fp32).
    """
    names = {f"{which}.{name}": array for name, arrays in moments for which, array in zip(MOMENTS, arrays, strict=True)}
    layout = safetensors_layout({name: ("F32", array.shape) for name, array in names.items()})
    with TensorWriter(directory / OPTIMIZER_FILE, layout) as writer:
        for name, array in names.items():
            writer.write(name, array)
    write_json(directory / STATE_FILE, asdict(state) | {"optimizer": writer.hashes()})


def read_state(checkpoint: Path) -> TrainingState:
    """
    Raises:
        Refused: the checkpoint has none (saved without train.save_every), or it is damaged.
    """
    file = checkpoint / STATE_FILE
    if not file.is_file() or not (checkpoint / OPTIMIZER_FILE).is_file():
        what = f"{checkpoint} holds weights alone: a run without train.save_every keeps no optimizer state at its end"
        raise refuse(RESUME, what, START_ANEW)
    values = read_json(file, RESUME)
    try:
        values.pop("optimizer")
        values["waiting"] = [MetricValue(*item) for item in values["waiting"]]
        values["loss_scale"] = values["loss_scale"] and tuple(values["loss_scale"])
        return TrainingState(**values)
    except (KeyError, TypeError) as error:
        raise refuse(str(file), f"damaged: {error!r}", "take an earlier checkpoint") from error


def read_moments(checkpoint: Path, names: Sequence[str], first: Sequence[NDArray], second: Sequence[NDArray]) -> None:
    """Fill arrays, of the weights' shapes and in the order of `names`, with the moments.

    Raises:
        Refused: the file is damaged or changed, or of another model.
    """
    file = checkpoint / OPTIMIZER_FILE
    hashes = json.loads((checkpoint / STATE_FILE).read_text("utf-8"))["optimizer"]
    entries = read_header(file, RESUME)
    for which, arrays in zip(MOMENTS, (first, second), strict=True):
        for name, array in zip(names, arrays, strict=True):
            key = f"{which}.{name}"
            entry = entries.get(key)
            if entry is None or (entry.shape, entry.dtype) != (array.shape, "F32"):
                raise refuse(RESUME, f"{file} holds no {key} of this model", START_ANEW)
            if _fill(array, file, entry) != hashes.get(key):
                raise refuse(RESUME, f"{file}, {key}: its content has changed (SHA-256)", "take an earlier checkpoint")


def _fill(array: NDArray, file: Path, entry: Entry) -> str:
    digest, rows = hashlib.sha256(), array.reshape(array.shape[0], -1)
    for first, last in chunks(entry.shape, entry.dtype):
        rows[first:last] = read_rows(file, entry, first, last)
        digest.update(np.ascontiguousarray(rows[first:last]))  # type: ignore[arg-type]  # an array is a buffer
    return digest.hexdigest()


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
