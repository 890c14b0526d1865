"""A run that is stopped or killed at any point and resumed ends with the same weights and losses."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_runs import Recorded
from tasks_support import RECIPE, SAME, Workspace, assert_the_same, checkpoints, named, succeeded

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
RESUME = "train.resume=auto"


@pytest.fixture(scope="session")
def uninterrupted(workspace: Workspace) -> Recorded:
    succeeded(workspace(*ALONE, *named("uninterrupted")))
    return workspace.run("uninterrupted")


def test_a_stopped_run_saves_a_checkpoint_and_resumes(workspace: Workspace, uninterrupted: Recorded) -> None:
    started = workspace.start(*ALONE, *named("stopped"))
    started.wait_for(checkpoints(workspace, "stopped") / "last")
    started.process.send_signal(signal.SIGTERM)
    ended = started.wait()
    assert ended.code == 143, ended.err
    assert "asked to stop: saved as " in ended.err
    assert started.left() == []
    assert workspace.run("stopped").status == "KILLED"
    saved = (checkpoints(workspace, "stopped") / "last").resolve()
    assert json.loads((saved / "training.json").read_text())["step"] == int(saved.name[-6:])
    assert len(workspace.run("stopped").metrics["train/loss"]) == int(saved.name[-6:])

    ended = succeeded(workspace(*ALONE, *named("stopped"), RESUME))
    assert f"resuming after step {int(saved.name[-6:])}, from {saved}" in ended.out
    assert_the_same(workspace, "stopped", uninterrupted)
    assert "resumed_after_step" in workspace.run("stopped").tags


def test_a_stopped_run_resumes_from_a_copy(workspace: Workspace, uninterrupted: Recorded) -> None:
    """cp -rL makes directories of the links; this copy was broken off in the newest checkpoint, too."""
    started = workspace.start(*ALONE, *named("copied"))
    started.wait_for(checkpoints(workspace, "copied") / "step-000004")
    started.process.send_signal(signal.SIGTERM)
    assert started.wait().code == 143
    folder = checkpoints(workspace, "copied")
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)
    newest = max(folder.glob("step-*"))
    (newest / "optimizer.safetensors").unlink()
    (folder / "last").rename(folder / "aside")
    shutil.rmtree(folder / "aside")

    ended = succeeded(workspace(*ALONE, *named("copied"), RESUME))
    told = f"{newest} isn't whole: renamed {newest.name}.incomplete"
    assert told in ended.out
    assert f"resuming after step {int(newest.name[-6:])}" not in ended.out
    assert_the_same(workspace, "copied", uninterrupted)
    assert (folder / f"{newest.name}.incomplete" / "model.safetensors").exists()


def test_old_checkpoints_are_deleted(workspace: Workspace, uninterrupted: Recorded) -> None:
    names = sorted(path.name for path in checkpoints(workspace, "uninterrupted").iterdir())
    assert set(names) >= {"best", "last", "step-000006", "step-000008"}
    assert len(names) <= 5  # the best one may be older than the last two
    assert "step-000002" not in names or (checkpoints(workspace, "uninterrupted") / "best").readlink() == Path(
        "step-000002"
    )


def test_resuming_a_finished_run_changes_nothing(workspace: Workspace, uninterrupted: Recorded) -> None:
    last = checkpoints(workspace, "uninterrupted") / "last"
    before = {file: file.stat().st_mtime_ns for file in last.resolve().iterdir()}
    ended = succeeded(workspace(*ALONE, *named("uninterrupted"), RESUME))
    assert f"checkpoint   {checkpoints(workspace, 'uninterrupted').resolve() / 'step-000008'}" in ended.out
    assert {file: file.stat().st_mtime_ns for file in last.resolve().iterdir()} == before
    # runs_in, too, asserts that nothing was logged twice.
    assert workspace.run("uninterrupted").metrics == uninterrupted.metrics


def test_resuming_with_other_settings_is_refused(
    workspace: Workspace, refused: Callable[..., str], uninterrupted: Recorded
) -> None:
    last = (checkpoints(workspace, "uninterrupted") / "last").resolve().relative_to(workspace.directory)
    other = refused(
        *ALONE,
        *named("uninterrupted"),
        RESUME,
        "seed=5",
        "optim.lr=2e-3",
        "seq_length=128",
        "model.num_hidden_layers=3",
    )
    for difference in (
        f"seed: 5, but {last} was trained with 0",
        f"optim.lr: 0.002, but {last} was trained with 0.001",
        f"seq_length: 128, but {last} was trained with 256",
        f"model.num_hidden_layers: 3, but {last} was trained with 2",
    ):
        assert difference in other
    assert "output_dir=DIR for a new run" in other
    data = refused(*ALONE, *named("uninterrupted"), RESUME, "data.loss=all", "tracking=off")
    assert f'data.loss: "all", but {last} was trained with "response"' in data
    assert "train.resume=auto to resume that run" in refused(*ALONE, *named("uninterrupted"))


@pytest.mark.parametrize("seed", [0])
def test_kills_at_random_times_do_not_change_the_result(
    workspace: Workspace, uninterrupted: Recorded, seed: int
) -> None:
    """Each attempt is killed at a random time, every other one while it is writing a checkpoint."""
    name, chance = f"killed {seed}", random.Random(seed)
    for attempt in range(3):
        started = workspace.start(*ALONE, *named(name), RESUME)
        folder = checkpoints(workspace, name)
        before = {path.name for path in folder.glob("*")}
        while started.process.poll() is None:
            new = {path.name for path in folder.glob("*")} - before
            if any(path.startswith(".step-") for path in new) if attempt % 2 else "last" in before | new:
                break
            time.sleep(0.002)  # what it waits for lasts longer
        try:
            started.process.wait(chance.uniform(0, 0.05 if attempt % 2 else 3))
        except subprocess.TimeoutExpired:
            for process in list(started.processes()):
                process.kill()
        started.wait()
        for leftover in workspace.home.glob("msrun-*"):  # the killed launcher couldn't remove these
            shutil.rmtree(leftover)
    succeeded(workspace(*ALONE, *named(name), RESUME))
    assert_the_same(workspace, name, uninterrupted)
    assert not list(checkpoints(workspace, name).glob(".*"))


def test_a_run_of_two_ranks_resumes_on_one(workspace: Workspace) -> None:
    """Each step has the same sequences, so the loss curve is the same up to rounding."""
    two = [*RUN, "parallel=dp2"]
    started = workspace.start(*two, *named("two"))
    started.wait_for(checkpoints(workspace, "two") / "step-000004")
    started.process.send_signal(signal.SIGTERM)
    assert started.wait().code == 143
    assert started.left() == []
    stopped = int((checkpoints(workspace, "two") / "last").readlink().name[-6:])
    alone = [*RUN, "train.micro_batch_size=2", "parallel=single"]
    succeeded(workspace(*alone, *named("two"), RESUME))
    succeeded(workspace(*alone, *named("two at once")))
    found, reference = workspace.run("two"), workspace.run("two at once")
    assert stopped >= 4
    for metric in SAME:
        for step, value in reference.metrics[metric].items():
            assert found.metrics[metric][step] == pytest.approx(value, rel=1e-5), f"{metric} at step {step}"
