"""Stop tokens on the command line: in training's sample answers, in its checkpoint, in predict."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import CommandLine
from tasks_support import RECIPE, Workspace, named, succeeded

pytestmark = pytest.mark.slow
ASK = ["task=predict", "task.in_process=true", "predict.prompt=Write.", "predict.max_new_tokens=9", "tracking=off"]


@pytest.fixture(scope="session")
def stopping(workspace: Workspace, untrained: Path) -> str:
    """A Hugging Face directory whose generation_config.json names all tokens but the first as ends of an answer."""
    copy = Path(shutil.copytree(untrained, workspace.directory / "runs/stopping-base"))
    (copy / "checkpoint.json").unlink()
    ends = {"eos_token_id": list(range(1, 1024)), "temperature": 0.6}
    (copy / "generation_config.json").write_text(json.dumps(ends))
    return "runs/stopping-base"


def test_they_end_sample_answers_and_stay_with_the_checkpoint(
    workspace: Workspace, here: CommandLine, stopping: str
) -> None:
    asked = [f"model.path={stopping}", "parallel=single", "train.max_steps=1", "train.prompts=[Write a function.]"]
    succeeded(workspace(*RECIPE, *asked, *named("stopping")))
    answer = (workspace.run("stopping").artifacts / "predictions" / "before.md").read_text()
    assert answer == "## Write a function.\n\n\n"
    saved = workspace.directory / "runs/stopping/checkpoints/last"
    written = json.loads((saved / "generation_config.json").read_text())
    assert written["eos_token_id"] == list(range(1, 1024))
    assert written["temperature"] == 0.6
    ended = succeeded(here(*ASK, f"model.path={saved}"))
    assert ended.out == "\n"
    assert "1 tokens, " in ended.err


def test_what_is_chosen_on_the_command_line_counts_and_is_told(
    workspace: Workspace, here: CommandLine, stopping: str
) -> None:
    own = [f"model.path={stopping}", "model.eos_token_id=0", "model.bos_token_id=2"]
    stops = f"predict.stop_token_ids={list(range(1024))}".replace(" ", "")
    ended = succeeded(here(*ASK, *own, stops))
    assert f"model.eos_token_id=0 instead of the 1 in {workspace.directory / stopping}" in ended.err
    assert f"model.bos_token_id=2 instead of the 0 in {workspace.directory / stopping}" in ended.err
    assert "1 tokens, " in ended.err
