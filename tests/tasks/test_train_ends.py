"""Training that doesn't come to its end: the exit code, what MLflow says, and no half checkpoint."""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Started
from tasks_support import RECIPE, Room

from dscoder_exp.weights.check import check
from dscoder_exp.weights.source import open_weights

ENDLESS = [*RECIPE, "parallel=single", "train.max_steps=1000000", "train.save_every=1"]
Begin = Callable[..., tuple[Started, Path]]


@pytest.fixture
def begin(room: Room) -> Iterator[Begin]:
    """begin(name, …): a training that saves after each step, once it has begun to, and its checkpoints."""
    launches: list[Started] = []

    def launch(name: str, *overrides: str) -> tuple[Started, Path]:
        started = room.start(*ENDLESS, f"name={name}", f"output_dir=runs/{name}", *overrides)
        launches.append(started)
        checkpoints = room.directory / "runs" / name / "checkpoints"
        started.wait_for(checkpoints / "step-000002")
        return started, checkpoints

    yield launch
    for started in launches:
        for process in started.processes():  # only where the test has failed
            process.kill()


def assert_all_whole(checkpoints: Path) -> None:
    """Every step-* has the files that its record lists, unharmed, and `last` is the newest."""
    steps = sorted(checkpoints.glob("step-*"))
    assert len(steps) >= 2
    for step in steps:
        source = open_weights(str(step))
        assert check(source).complete
        for name in source.shapes():
            source.tensor(name)  # refused where its hash differs
    assert (checkpoints / "last").resolve() in steps[-2:]  # it may have been stopped between a rename and the link


@pytest.mark.slow
def test_sigterm_ends_all_of_it(room: Room, begin: Begin) -> None:
    started, checkpoints = begin("terminated")
    processes = list(started.processes())
    assert len(processes) == 2
    started.process.send_signal(signal.SIGTERM)
    ended = started.wait()
    assert ended.code == 143, ended.err
    assert started.left() == []
    assert_all_whole(checkpoints)
    assert {path.name for path in checkpoints.iterdir() if not path.name.startswith("step-")} == {"last"}
    run = room.run("terminated")
    assert run.status == "KILLED"
    assert len(run.metrics["train/loss"]) >= 2  # what was logged until then is there


@pytest.mark.slow
def test_a_killed_worker_fails_the_run(room: Room, begin: Begin) -> None:
    started, checkpoints = begin("killed")
    started.worker().kill()
    ended = started.wait()
    assert ended.code == 1
    assert "rank 0 failed: killed by SIGKILL" in ended.err
    assert started.left() == []
    assert_all_whole(checkpoints)
    run = room.run("killed")
    assert run.status == "FAILED"
    assert "killed by SIGKILL" in run.tags["error"]


@pytest.mark.slow
def test_a_rank_that_hangs_is_found(room: Room, begin: Begin) -> None:
    """The other waits for it in a sum over ranks, and would for ever."""
    # Longer than compiling takes, between the held-out batches and the first step, and less than the 30 s after which
    # MindSpore's scheduler gives a process up that is suspended as a whole.
    started, checkpoints = begin("hanging", "parallel=dp2", "hydra.launcher.heartbeat=20")
    (worker,) = (process for process in started.processes() if process.environ().get("RANK_ID") == "1")
    worker.suspend()
    ended = started.wait()
    assert ended.code == 1
    message = r"^ranks? (0|1|0, 1): no heartbeat for hydra\.launcher\.heartbeat=20 s$"
    assert re.search(message, ended.err, re.MULTILINE), ended.err
    assert re.search(r"^  rank 0: training \d+/1000000, \d+\.\d s ago\n    Stack", ended.err, re.MULTILINE)
    assert re.search(
        r"^  rank 1: training \d+/1000000, \d+\.\d s ago\n    it wrote no stack trace", ended.err, re.MULTILINE
    )
    assert started.left() == []
    assert_all_whole(checkpoints)
    run = room.run("hanging")
    assert run.status == "FAILED"
    assert "no heartbeat" in run.tags["error"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_fails_the_run(room: Room) -> None:
    """The weights overflow in the first step, the losses of the next are lost: two are skipped, the third ends it."""
    name = "diverged"
    bad = ["train.max_steps=9", "optim.lr=1e30", "optim.clip_norm=null", "train.save_every=1"]
    ended = room(*RECIPE, "parallel=dp2", *bad, f"name={name}", "output_dir=runs/diverged")
    assert ended.code == 1
    assert "NotFinite: loss " in ended.err
    assert "lower optim.lr, or look at the data" in ended.err
    run = room.run(name)
    assert run.status == "FAILED"
    assert "NotFinite" in run.tags["error"]
    assert run.metrics["train/loss"].keys() == {1}
    steps = {path.name for path in (room.directory / "runs/diverged/checkpoints").iterdir()}
    assert steps == {"step-000001", "step-000002", "step-000003", "last"}
    assert run.metrics["train/skipped_steps"] == {2: 1, 3: 2}
    assert (run.artifacts / "diagnosis" / "numbers.json").is_file()
