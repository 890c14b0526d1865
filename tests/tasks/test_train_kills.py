"""A rank is killed at random steps of a run: each kill is detected at once, and the result is as without kills.

Ten kills, about 25 seconds each; DSCODER_KILLS sets another number.
"""

import os
import random
import time
from collections.abc import Callable

import psutil
import pytest
from mlflow_runs import Recorded
from processes import Started
from tasks_support import RECIPE, Workspace, assert_the_same, checkpoints, named, succeeded

KILLS = int(os.environ.get("DSCODER_KILLS", "10"))
STEPS = 6 * KILLS
DETECTION_LIMIT = 5.0  # seconds from a kill to the launcher's report; usually a tenth of that
RUN = ["train.save_every=2", "train.eval_every=7", "train.keep_last=2", f"train.max_steps={STEPS}", "optim.lr=1e-3"]
TWO_RANKS = [*RECIPE, *RUN, "parallel=dp2"]


@pytest.fixture(scope="module")
def undisturbed(workspace: Workspace) -> Recorded:
    succeeded(workspace(*TWO_RANKS, *named("undisturbed")))
    return workspace.run("undisturbed")


def step_of(workspace: Workspace, rank: int) -> int:
    """The number of training steps that a rank has finished, from its heartbeat file; 0 before training."""
    for beat in workspace.home.glob(f"msrun-*/rank-{rank}.beat"):
        title, _, count = beat.read_text().rpartition(" ")
        return int(count.partition("/")[0]) if title == "training" else 0
    return 0


def wait_for_step(workspace: Workspace, started: Started, rank: int, step: int) -> None:
    while step_of(workspace, rank) < step:
        assert started.process.poll() is None, started.wait().err
        time.sleep(0.005)


def process_of(workspace: Workspace, rank: int) -> psutil.Process:
    (file,) = workspace.home.glob(f"msrun-*/rank-{rank}.pid")
    return psutil.Process(int(file.read_text()))


@pytest.mark.proof
def test_kills_do_not_change_the_result(
    workspace: Workspace, undisturbed: Recorded, free_port: Callable[[], int]
) -> None:
    chance = random.Random(0)
    command = [*TWO_RANKS, *named("killed"), "train.resume=auto", f"hydra.launcher.master_port={free_port()}"]
    last, saved = checkpoints(workspace, "killed") / "last", 0
    for _ in range(KILLS):
        rank, ahead, delay = chance.randrange(2), chance.randint(1, 4), chance.uniform(0, 0.1)
        started = workspace.start(*command)
        wait_for_step(workspace, started, rank, saved + ahead)
        time.sleep(delay)  # to kill at any point of a step
        process_of(workspace, rank).kill()
        killed = time.monotonic()
        started.wait_for_output(f"rank {rank} failed: killed by SIGKILL; the other ranks are stopped")
        assert time.monotonic() - killed < DETECTION_LIMIT
        ended = started.wait()
        assert ended.code == 1
        assert f"\nrank {rank} failed: killed by SIGKILL\n" in ended.err
        assert started.left() == []
        run = workspace.run("killed")
        assert run.status == "FAILED"
        assert run.tags["error"].startswith(f"rank {rank} failed: killed by SIGKILL\n")
        saved = int(last.readlink().name[-6:]) if last.exists() else 0
    assert 0 < saved < STEPS
    succeeded(workspace(*command))
    assert_the_same(workspace, "killed", undisturbed)
