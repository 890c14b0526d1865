"""A rank is killed at random steps of one run: found at once each time, and the run ends as if not.

Ten times, some 25 seconds each; DSCODER_KILLS says how often.
"""

import os
import random
import time
from collections.abc import Callable

import psutil
import pytest
from mlflow_runs import Recorded
from processes import Started
from tasks_support import RECIPE, Room, assert_the_same, checkpoints, done, own

KILLS = int(os.environ.get("DSCODER_KILLS", "10"))
STEPS = 6 * KILLS
DETECTED = 5.0  # seconds from a kill to the launcher's report; a tenth of that is usual
RUN = ["train.save_every=2", "train.eval_every=7", "train.keep_last=2", f"train.max_steps={STEPS}", "optim.lr=1e-3"]
TWO_RANKS = [*RECIPE, *RUN, "parallel=dp2"]


@pytest.fixture(scope="module")
def unharmed(room: Room) -> Recorded:
    done(room(*TWO_RANKS, *own("unharmed")))
    return room.run("unharmed")


def step_of(room: Room, rank: int) -> int:
    """The last one that the rank of the only launch has taken; 0 before it begins to train."""
    for beat in room.home.glob(f"msrun-*/rank-{rank}.beat"):
        title, _, count = beat.read_text().rpartition(" ")
        return int(count.partition("/")[0]) if title == "training" else 0
    return 0


def wait_for_step(room: Room, started: Started, rank: int, step: int) -> None:
    while step_of(room, rank) < step:
        assert started.process.poll() is None, started.wait().err
        time.sleep(0.005)


def process_of(room: Room, rank: int) -> psutil.Process:
    (file,) = room.home.glob(f"msrun-*/rank-{rank}.pid")
    return psutil.Process(int(file.read_text()))


@pytest.mark.proof
def test_kills_change_nothing(room: Room, unharmed: Recorded, free_port: Callable[[], int]) -> None:
    chance = random.Random(0)
    command = [*TWO_RANKS, *own("killed"), "train.resume=auto", f"hydra.launcher.master_port={free_port()}"]
    last, saved = checkpoints(room, "killed") / "last", 0
    for _ in range(KILLS):
        rank, ahead, delay = chance.randrange(2), chance.randint(1, 4), chance.uniform(0, 0.1)
        started = room.start(*command)
        wait_for_step(room, started, rank, saved + ahead)
        time.sleep(delay)  # anywhere within a step
        process_of(room, rank).kill()
        killed = time.monotonic()
        started.wait_for_output(f"rank {rank} failed: killed by SIGKILL; the other ranks are stopped")
        assert time.monotonic() - killed < DETECTED
        ended = started.wait()
        assert ended.code == 1
        assert f"\nrank {rank} failed: killed by SIGKILL\n" in ended.err
        assert started.left() == []
        run = room.run("killed")
        assert run.status == "FAILED"
        assert run.tags["error"].startswith(f"rank {rank} failed: killed by SIGKILL\n")
        saved = int(last.readlink().name[-6:]) if last.exists() else 0
    assert 0 < saved < STEPS
    done(room(*command))
    assert_the_same(room, "killed", unharmed)
