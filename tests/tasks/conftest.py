"""Trained runs are dear (about ten seconds each), so the tests of a session share them, and one database."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from processes import Ended
from tasks_support import FIVE_STEPS, RECIPE, Room, done, told
from tokenizers import Tokenizer
from weights_support import save_checkpoint

from dscoder_exp.native.library import library
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.random_init import random_weights

REPOSITORY = Path(__file__).parents[2]


def make_room(directory: Path, store: Path) -> Room:
    """With an empty store, and rows.json: 40 instructions, a third of them with an input.

    The C++ kernels are those that this session has compiled.
    """
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
    shutil.copy(store, work)
    if (kernels := library().path) is not None:
        (home / "cache" / "dscoder_exp").mkdir(parents=True)
        shutil.copy(kernels, home / "cache" / "dscoder_exp")
    return Room(work, home)


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Room:
    """The one that the session's runs share, each with a name of its own."""
    return make_room(tmp_path_factory.mktemp("room"), empty_store)


@pytest.fixture
def empty_room(tmp_path: Path, empty_store: Path) -> Room:
    return make_room(tmp_path, empty_store)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of model=tiny whose weights are random, for what doesn't ask how they were learnt."""
    shape = yaml.safe_load((REPOSITORY / "conf/model/tiny.yaml").read_text())
    config = LlamaConfig(**{item.name: shape[item.name] for item in fields(LlamaConfig)})
    tokenizer = Tokenizer.from_file(str(REPOSITORY / "examples/tiny_tokenizer.json"))
    directory = tmp_path_factory.mktemp("untrained") / "checkpoint"
    save_checkpoint(directory, config, random_weights(config, seed=1), tokenizer=tokenizer, lineage={})
    return directory


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
