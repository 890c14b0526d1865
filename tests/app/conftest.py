"""Fixtures: commands, and small inputs for model=tiny."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from app_support import HERE, Command
from tokenizers import Tokenizer, models, pre_tokenizers

from dscoder_exp.app import main


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
def refusing(tmp_path: Path) -> Command:
    """The command with fake mindspore and mlflow modules that end the process if they are imported."""
    (tmp_path / "work").mkdir()
    return Command(tmp_path / "work", HERE / "poison")


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """refusal(*arguments) -> the message on stderr; like `refusing`, but in this process."""
    for name in ("mindspore", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def refuse(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dscoder_exp", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        assert main() == 2
        assert list((tmp_path / "work").iterdir()) == []
        return capsys.readouterr().err

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
