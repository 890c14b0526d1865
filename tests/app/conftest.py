"""Fixtures: commands, and small inputs for model=tiny."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from app_support import HERE, Command
from command_line import CommandLine
from tokenizers import Tokenizer, models, pre_tokenizers


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command with fake tasks, in an empty directory."""
    (tmp_path / "work").mkdir()
    return Command(tmp_path / "work", HERE / "fakes")


@pytest.fixture
def tracked(command: Command, empty_store: Path) -> Command:
    """`command` in a directory with an MLflow database."""
    shutil.copy(empty_store, command.directory)
    return command


@pytest.fixture
def without_libraries(tmp_path: Path) -> Command:
    """The command with fake mindspore and mlflow modules that end the process if they are imported."""
    (tmp_path / "work").mkdir()
    return Command(tmp_path / "work", HERE / "poison")


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The same in this process, where importing mindspore or mlflow raises ImportError."""
    for name in ("mindspore", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "work").mkdir()
    return CommandLine(tmp_path / "work", monkeypatch, capsys)


@pytest.fixture
def refused(command_line: CommandLine) -> Callable[..., str]:
    """refused(*arguments) -> the message; asserts what holds for every refusal."""

    def refuse(*arguments: str) -> str:
        ended = command_line(*arguments)
        assert (ended.code, ended.out) == (2, ""), ended.err
        assert ended.err.startswith("dscoder_exp: refused"), ended.err
        assert "Traceback" not in ended.err
        assert command_line.leftovers() == []
        return ended.err

    return refuse


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: Any) -> Path:
    """A directory with rows.json, and a tokenizer.json of 12 entries that begin with model=tiny's special tokens."""
    directory = tmp_path_factory.mktemp("inputs")
    words = ["<bos>", "<eos>", "<pad>", "<unk>", *(f"word{number}" for number in range(8))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(directory / "tokenizer.json"))
    rows = [{"instruction": f"word{number}", "input": "", "output": "word0 word1"} for number in range(8)]
    (directory / "rows.json").write_text(json.dumps(rows, indent=1))
    return directory


@pytest.fixture(scope="session")
def small(inputs: Path) -> list[str]:
    """Overrides for a job that runs on any machine."""
    return ["model=tiny", f"tokenizer.path={inputs}", f"data.source={inputs / 'rows.json'}"]
