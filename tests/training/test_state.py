"""training.json: written, read back exactly, and compared with the run that is resumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dscoder_exp.schema.errors import Refused
from dscoder_exp.training.state import (
    TrainingState,
    read_state,
    refuse_changed_recipe,
    waiting_metrics,
    write_state,
)

RECIPE = {"seed": 0, "optim.lr": 1e-3, "optim.betas": [0.9, 0.95], "model.rope_scaling": None}
FILES = {"ways": 1, "files": {"optimizer.safetensors": {"rank": 0}}}
STATE = TrainingState(
    step=7,
    skipped=1,
    recipe=RECIPE,
    run_id="abc",
    loss_before=None,
    answers_before=["an answer\n"],
    loss_scale=(1024.0, 3),
    eval_loss=1.25,
    best_loss=1.0,
    optimizer=FILES,
)


def refusal(call, *arguments: object) -> str:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "optimizer.safetensors").touch()
    write_state(tmp_path, STATE)
    return tmp_path


def test_a_state_is_read_as_it_was_written(written: Path) -> None:
    assert read_state(written) == STATE


def test_a_checkpoint_of_an_earlier_version_holds_metrics(written: Path) -> None:
    assert waiting_metrics(written) == []
    file, metric = written / "training.json", ("train/loss", 0.1 + 0.2, 1764000000123, 7)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"waiting": [metric]}))
    assert read_state(written) == STATE
    assert waiting_metrics(written) == [metric]


def test_damaged_and_missing_files_are_refused(written: Path) -> None:
    state, moments = written / "training.json", written / "optimizer.safetensors"
    moments.unlink()
    assert f"train.resume: {moments} is missing" in refusal(read_state, written)
    state.write_text(json.dumps({"step": 3, "optimizer": {"files": {}}, "loss_scale": None}))
    assert f"{state}: damaged: TypeError" in refusal(read_state, written)
    state.unlink()
    assert f"train.resume: {written} holds weights alone" in refusal(read_state, written)


def test_every_difference_is_named() -> None:
    refuse_changed_recipe(STATE, {**RECIPE, "data.loss": "all"}, Path("x"))  # a name that only one of them has
    message = refusal(refuse_changed_recipe, STATE, RECIPE | {"seed": 1, "optim.lr": 2e-3}, Path("x"))
    assert "refused, 2 problems" in message
    assert "  - seed: 1, but x was trained with 0\n" in message
    assert "  - optim.lr: 0.002, but x was trained with 0.001\n      -> a resumed run keeps these values; " in message
    assert refuse_changed_recipe(replace(STATE, recipe={}), RECIPE, Path("x")) is None
