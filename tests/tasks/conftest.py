"""Trained runs are dear (about ten seconds each), so the tests of a session share them, and one database."""

import json
from pathlib import Path

import pytest
from processes import Ended
from tasks_support import FIVE_STEPS, RECIPE, Room, done, told


def make_room(directory: Path) -> Room:
    """With rows.json in it: 40 instructions, a third of them with an input."""
    work, home = directory / "work", directory / "home"
    work.mkdir()
    home.mkdir()
    rows = [
        {
            "instruction": f"Write a function that returns the number {number}.",
            "input": f"value = {number}" if number % 3 == 0 else "",
            "output": f"def number_{number}():\n    return {number}",
        }
        for number in range(40)
    ]
    (work / "rows.json").write_text(json.dumps(rows, indent=1))
    return Room(work, home)


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """The one that the session's runs share, each with a name of its own."""
    return make_room(tmp_path_factory.mktemp("room"))


@pytest.fixture
def empty_room(tmp_path: Path) -> Room:
    return make_room(tmp_path)


@pytest.fixture(scope="session")
def first(room: Room) -> Ended:
    """The contract's small run of the 7B recipe, in the directory that Hydra gives it."""
    return done(room(*RECIPE, "parallel=single", "train.max_steps=3"))


@pytest.fixture(scope="session")
def checkpoint(first: Ended) -> Path:
    """What it saved."""
    return Path(told(first, "checkpoint"))


@pytest.fixture(scope="session")
def whole(room: Room) -> Ended:
    """Five steps of two sequences at once; the worker runs in another directory than the command was typed in."""
    own = ["name=whole", "output_dir=runs/whole", "hydra.job.chdir=true"]
    return done(room(*FIVE_STEPS, "parallel=single", "train.micro_batch_size=2", *own))


@pytest.fixture(scope="session")
def halves(room: Room) -> Ended:
    """The same on two ranks, one sequence each; both find the data unprepared."""
    own = [
        "name=halves",
        "output_dir=runs/halves",
        "runtime.cache_dir=halves-cache",
        "hydra.sweep.dir=halves-sweep-cache",
    ]
    return done(room(*FIVE_STEPS, "parallel=dp2", *own))


@pytest.fixture(scope="session")
def parts(room: Room) -> Ended:
    """The same in two micro steps, each block's forward computed twice; measured and saved on the way."""
    how = ["parallel=single", "train.recompute=full"]
    own = ["train.eval_every=2", "train.save_every=2", "name=parts", "output_dir=runs/parts"]
    return done(room(*FIVE_STEPS, *how, *own))
