"""A run that is stopped or killed, wherever that is, goes on to the very weights and losses it would have had."""

import json
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from mlflow_runs import Recorded
from tasks_support import RECIPE, SAME, Room, assert_the_same, checkpoints, done, own

pytestmark = pytest.mark.slow

STEPS = 8
RUN = [
    *RECIPE,
    f"train.max_steps={STEPS}",
    "optim.lr=1e-3",
    "train.save_every=2",
    "train.eval_every=3",
    "train.keep_last=2",
]
ALONE = [*RUN, "parallel=single"]
ON = "train.resume=auto"


@pytest.fixture(scope="session")
def uninterrupted(room: Room) -> Recorded:
    done(room(*ALONE, *own("uninterrupted")))
    return room.run("uninterrupted")


def test_a_stopped_run_saves_and_goes_on(room: Room, uninterrupted: Recorded) -> None:
    started = room.start(*ALONE, *own("stopped"))
    started.wait_for(checkpoints(room, "stopped") / "last")
    started.process.send_signal(signal.SIGTERM)
    ended = started.wait()
    assert ended.code == 143, ended.err
    assert "asked to stop: saved as " in ended.err
    assert started.left() == []
    assert room.run("stopped").status == "KILLED"
    saved = (checkpoints(room, "stopped") / "last").resolve()
    assert json.loads((saved / "training.json").read_text())["step"] == int(saved.name[-6:])
    assert len(room.run("stopped").metrics["train/loss"]) == int(saved.name[-6:])

    ended = done(room(*ALONE, *own("stopped"), ON))
    assert f"going on after step {int(saved.name[-6:])}, from {saved}" in ended.out
    assert_the_same(room, "stopped", uninterrupted)
    assert "resumed_after_step" in room.run("stopped").tags


def test_only_what_is_kept_stays(room: Room, uninterrupted: Recorded) -> None:
    names = sorted(path.name for path in checkpoints(room, "uninterrupted").iterdir())
    assert set(names) >= {"best", "last", "step-000006", "step-000008"}
    assert len(names) <= 5  # the best may be an older one
    assert "step-000002" not in names or (checkpoints(room, "uninterrupted") / "best").readlink() == Path("step-000002")


def test_a_run_that_is_through_changes_nothing(room: Room, uninterrupted: Recorded) -> None:
    last = checkpoints(room, "uninterrupted") / "last"
    before = {file: file.stat().st_mtime_ns for file in last.resolve().iterdir()}
    ended = done(room(*ALONE, *own("uninterrupted"), ON))
    assert f"checkpoint   {checkpoints(room, 'uninterrupted').resolve() / 'step-000008'}" in ended.out
    assert {file: file.stat().st_mtime_ns for file in last.resolve().iterdir()} == before
    assert room.run("uninterrupted").metrics == uninterrupted.metrics  # and runs_in refuses what is logged twice


def test_another_run_is_refused_with_every_difference(room: Room, uninterrupted: Recorded) -> None:
    last = (checkpoints(room, "uninterrupted") / "last").resolve().relative_to(room.directory)
    other = room(
        *ALONE, *own("uninterrupted"), ON, "seed=5", "optim.lr=2e-3", "seq_length=128", "model.num_hidden_layers=3"
    )
    assert other.code == 2
    for difference in (
        f"seed: 5, but {last} was trained with 0",
        f"optim.lr: 0.002, but {last} was trained with 0.001",
        f"seq_length: 128, but {last} was trained with 256",
        f"model.num_hidden_layers: 3, but {last} was trained with 2",
    ):
        assert difference in other.err
    assert "output_dir=DIR for a new run" in other.err
    data = room(*ALONE, *own("uninterrupted"), ON, "data.loss=all", "tracking=off")
    assert data.code == 2
    assert f'data.loss: "all", but {last} was trained with "response"' in data.err
    without = room(*ALONE, *own("uninterrupted"))
    assert without.code == 2
    assert "train.resume=auto goes on with it" in without.err


@pytest.mark.parametrize("seed", [0])
def test_killed_at_random_it_comes_to_the_same(room: Room, uninterrupted: Recorded, seed: int) -> None:
    """Each attempt is killed after a while, whatever it is at; every other one while a checkpoint is being written."""
    name, chance = f"killed {seed}", random.Random(seed)
    for attempt in range(3):
        started = room.start(*ALONE, *own(name), ON)
        folder = checkpoints(room, name)
        seen = {path.name for path in folder.glob("*")}
        while started.process.poll() is None:
            new = {path.name for path in folder.glob("*")} - seen
            if any(path.startswith(".step-") for path in new) if attempt % 2 else "last" in seen | new:
                break
        try:
            started.process.wait(chance.uniform(0, 0.05 if attempt % 2 else 3))
        except subprocess.TimeoutExpired:
            for process in list(started.processes()):
                process.kill()
        started.wait()
        for left in room.home.glob("msrun-*"):  # the launcher's, which nobody was left to remove
            shutil.rmtree(left)
    done(room(*ALONE, *own(name), ON))
    assert_the_same(room, name, uninterrupted)
    assert not list(checkpoints(room, name).glob(".*"))


def test_two_ranks_go_on_as_one(room: Room) -> None:
    """The same sequences a step, shared out otherwise: the same curve, up to rounding."""
    two = [*RUN, "parallel=dp2"]
    started = room.start(*two, *own("two"))
    started.wait_for(checkpoints(room, "two") / "step-000004")
    started.process.send_signal(signal.SIGTERM)
    assert started.wait().code == 143
    assert started.left() == []
    stopped = int((checkpoints(room, "two") / "last").readlink().name[-6:])
    alone = [*RUN, "train.micro_batch_size=2", "parallel=single"]
    done(room(*alone, *own("two"), ON))
    done(room(*alone, *own("two at once")))
    found, reference = room.run("two"), room.run("two at once")
    assert stopped >= 4
    for metric in SAME:
        for step, value in reference.metrics[metric].items():
            assert found.metrics[metric][step] == pytest.approx(value, rel=1e-5), f"{metric} at step {step}"
