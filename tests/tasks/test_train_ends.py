"""Training that is stopped or fails: exit code, MLflow status, and no incomplete checkpoint."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Started
from tasks_support import RECIPE, Workspace

from dscoder_exp.weights.check import check
from dscoder_exp.weights.source import open_weights

ENDLESS = [*RECIPE, "parallel=single", "train.max_steps=1000000", "train.save_every=1"]
Begin = Callable[..., tuple[Started, Path]]


@pytest.fixture
def begin(workspace: Workspace) -> Iterator[Begin]:
    """begin(name, …) -> a training that saves after each step, with two checkpoints already, and their directory."""
    launches: list[Started] = []

    def launch(name: str, *overrides: str) -> tuple[Started, Path]:
        started = workspace.start(*ENDLESS, f"name={name}", f"output_dir=runs/{name}", *overrides)
        launches.append(started)
        checkpoints = workspace.directory / "runs" / name / "checkpoints"
        started.wait_for(checkpoints / "step-000002")
        return started, checkpoints

    yield launch
    for started in launches:
        for process in started.processes():  # some are left only if the test has failed
            process.kill()


def assert_all_complete(checkpoints: Path) -> None:
    """Assert that every step-* has its files with the recorded hashes, and that `last` is the newest."""
    steps = sorted(checkpoints.glob("step-*"))
    assert len(steps) >= 2
    for step in steps:
        source = open_weights(str(step))
        assert check(source).complete
        for name in source.shapes():
            source.tensor(name)  # raises if its hash differs
    # The process may have been stopped between saving a checkpoint and linking it.
    assert (checkpoints / "last").resolve() in steps[-2:]


@pytest.mark.slow
def test_sigterm_ends_all_processes(workspace: Workspace, begin: Begin) -> None:
    started, checkpoints = begin("terminated")
    processes = list(started.processes())
    assert len(processes) == 2
    started.process.send_signal(signal.SIGTERM)
    ended = started.wait()
    assert ended.code == 143, ended.err
    assert started.left() == []
    assert_all_complete(checkpoints)
    assert {path.name for path in checkpoints.iterdir() if not path.name.startswith("step-")} == {"last"}
    run = workspace.run("terminated")
    assert run.status == "KILLED"
    assert len(run.metrics["train/loss"]) >= 2  # logged before SIGTERM


@pytest.mark.slow
def test_a_killed_worker_fails_the_run(workspace: Workspace, begin: Begin) -> None:
    started, checkpoints = begin("killed")
    started.worker().kill()
    ended = started.wait()
    assert ended.code == 1
    assert "rank 0 failed: killed by SIGKILL" in ended.err
    assert started.left() == []
    assert_all_complete(checkpoints)
    run = workspace.run("killed")
    assert run.status == "FAILED"
    assert "killed by SIGKILL" in run.tags["error"]
    assert run.metrics["train/loss"].keys() >= {1, 2}  # what the worker had logged


@pytest.mark.slow
def test_a_hanging_rank_is_detected(workspace: Workspace, begin: Begin) -> None:
    """The other rank waits for it in an all-reduce and would wait for ever."""
    # The heartbeat limit is longer than compilation between evaluation and the first step takes, and shorter than the
    # 30 s after which MindSpore's scheduler gives up a suspended process.
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
    assert_all_complete(checkpoints)
    run = workspace.run("hanging")
    assert run.status == "FAILED"
    assert "no heartbeat" in run.tags["error"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_fails_the_run(workspace: Workspace) -> None:
    """The first step makes the weights overflow; two of the next steps are skipped, the third ends the run."""
    name = "diverged"
    bad = ["train.max_steps=9", "optim.lr=1e30", "optim.clip_norm=null", "train.save_every=1"]
    ended = workspace(*RECIPE, "parallel=dp2", *bad, f"name={name}", "output_dir=runs/diverged")
    assert ended.code == 1
    assert "NotFinite: loss " in ended.err
    assert "lower optim.lr, or look at the data" in ended.err
    run = workspace.run(name)
    assert run.status == "FAILED"
    assert "NotFinite" in run.tags["error"]
    assert run.metrics["train/loss"].keys() == {1}
    steps = {path.name for path in (workspace.directory / "runs/diverged/checkpoints").iterdir()}
    assert steps == {"step-000001", "step-000002", "step-000003", "last"}
    assert run.metrics["train/skipped_steps"] == {2: 1, 3: 2}
    assert (run.artifacts / "diagnosis" / "numbers.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["single", "dp2"])
def test_ctrl_c_while_compiling_ends_at_once(empty_workspace: Workspace, layout: str) -> None:
    """MindSpore takes an exception in its compiler for a mistake in what it compiles, and reports it at length."""
    before = {path.name for path in empty_workspace.directory.iterdir()}
    own = [f"parallel={layout}", "train.max_steps=9", "name=compiling", "output_dir=run"]
    started = empty_workspace.start(*RECIPE, *own)
    started.wait_for_output("eval loss before", on_stderr=True)
    time.sleep(0.3)  # it compiles for several seconds
    sent = time.monotonic()
    started.process.send_signal(signal.SIGINT)
    ended = started.wait()
    assert time.monotonic() - sent < 3
    assert ended.code == 130
    assert "Traceback" not in ended.out + ended.err
    assert "ERROR] ANALYZER" not in ended.err
    assert started.left() == []
    assert {path.name for path in empty_workspace.directory.iterdir()} - before == {"multirun", "mlartifacts"}
    assert empty_workspace.run("compiling").status == "KILLED"
