"""Fixtures: training runs, which take about ten seconds each and so are shared by all tests of a session."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from command_line import CommandLine
from kernels import share_kernels
from predict_support import Predict
from processes import Ended
from tasks_support import FIVE_STEPS, RECIPE, THREE_STEPS, Workspace, succeeded, summary_line
from tokenizers import Tokenizer
from weights_support import save_checkpoint

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.weights.random_init import random_weights

REPOSITORY = Path(__file__).parents[2]


def make_workspace(directory: Path, store: Path) -> Workspace:
    """A workspace with an empty MLflow store, and with rows.json: 40 instructions, a third of them with an input."""
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
    share_kernels(home / "cache")
    return Workspace(work, home)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Workspace:
    """The workspace shared by the session's runs, each of which has a name of its own."""
    return make_workspace(tmp_path_factory.mktemp("workspace"), empty_store)


@pytest.fixture
def empty_workspace(tmp_path: Path, empty_store: Path) -> Workspace:
    return make_workspace(tmp_path, empty_store)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of model=tiny with random weights, for tests that need no trained ones."""
    shape = yaml.safe_load((REPOSITORY / "conf/model/tiny.yaml").read_text())
    config = LlamaConfig(**{item.name: shape[item.name] for item in fields(LlamaConfig)})
    tokenizer = Tokenizer.from_file(str(REPOSITORY / "examples/tiny_tokenizer.json"))
    directory = tmp_path_factory.mktemp("untrained") / "checkpoint"
    save_checkpoint(directory, config, random_weights(config, seed=1), tokenizer=tokenizer, lineage={})
    return directory


@pytest.fixture(scope="session")
def recipe_run(workspace: Workspace) -> Ended:
    """A small run of the 7B recipe, three steps, in Hydra's output directory."""
    return succeeded(workspace(*RECIPE, *THREE_STEPS))


@pytest.fixture(scope="session")
def checkpoint(recipe_run: Ended) -> Path:
    """The checkpoint saved by `recipe_run`."""
    return Path(summary_line(recipe_run, "checkpoint"))


@pytest.fixture(scope="session")
def whole(workspace: Workspace) -> Ended:
    """Five steps, each with one micro batch of two sequences; the worker changes to another directory."""
    own = ["name=whole", "output_dir=runs/whole", "hydra.job.chdir=true"]
    return succeeded(workspace(*FIVE_STEPS, "parallel=single", "train.micro_batch_size=2", *own))


@pytest.fixture(scope="session")
def halves(workspace: Workspace) -> Ended:
    """The same steps on two ranks, one sequence each, with a cache of their own, so that the data aren't prepared."""
    own = [
        "name=halves",
        "output_dir=runs/halves",
        "runtime.cache_dir=halves-cache",
        "hydra.sweep.dir=halves-sweep-cache",
    ]
    return succeeded(workspace(*FIVE_STEPS, "parallel=dp2", *own))


@pytest.fixture(scope="session")
def parts(workspace: Workspace) -> Ended:
    """The same steps as two micro steps each, with recomputation; evaluated and saved every two steps."""
    how = ["parallel=single", "train.recompute=full"]
    own = ["train.eval_every=2", "train.save_every=2", "name=parts", "output_dir=runs/parts"]
    return succeeded(workspace(*FIVE_STEPS, *how, *own))


@pytest.fixture
def here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Commands in the workspace that run in this process: task=prepare, task=convert, and task.in_process=true."""
    return CommandLine(workspace.directory, monkeypatch, capsys)


@pytest.fixture
def here_empty(
    empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """The same in the empty workspace."""
    return CommandLine(empty_workspace.directory, monkeypatch, capsys)


@pytest.fixture
def refused(here: CommandLine) -> Callable[..., str]:
    """refused(*arguments) -> the message with which a command in the workspace is refused, in this process."""

    def refuse(*arguments: str) -> str:
        ended = here(*arguments)
        assert ended.code == 2, ended.err
        assert "Traceback" not in ended.err
        return ended.err

    return refuse


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """task=predict in this process, in an empty directory."""
    (tmp_path / "work").mkdir()
    share_kernels(tmp_path / "home" / "cache")
    monkeypatch.chdir(tmp_path / "work")
    return Predict(CommandLine(tmp_path / "work", monkeypatch, capsys))
