"""The commands that tasks suggest as next steps."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dscoder_exp.schema.overrides import for_hydra
from dscoder_exp.tasks.commands import predict_command, ui_command

PYTHON = sys.executable  # before a test pretends to be another one
STORE = "sqlite:////data/x.db"
SHOW = f"ui --backend-store-uri {STORE}"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment below the current directory; this process pretends to be its Python."""
    monkeypatch.chdir(tmp_path)
    scripts = tmp_path / "an env" / "bin"
    scripts.mkdir(parents=True)
    for name in ("mlflow", "python"):
        (scripts / name).touch(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setattr(sys, "prefix", str(scripts.parent))
    monkeypatch.setenv("PATH", str(scripts))  # as in a worker, whatever the user's shell has
    return scripts.parent


def test_programs_of_an_activated_environment_are_called_by_name(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", str(environment))
    assert ui_command(STORE) == f"mlflow {SHOW}"
    assert shlex.split(predict_command({"model.path": "a b"})) == [
        *["python", "-m", "dscoder_exp", "task=predict", "model.path=a b"],
        "predict.prompt=write a quick sort algorithm.",
    ]


def test_otherwise_they_are_called_by_path(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert ui_command(STORE) == f"'an env/bin/mlflow' {SHOW}"
    assert shlex.split(predict_command({}))[0] == "an env/bin/python"
    (environment / "elsewhere").mkdir()
    monkeypatch.chdir(environment / "elsewhere")
    assert shlex.split(predict_command({}))[0] == str(environment / "bin" / "python")
    (environment / "bin" / "mlflow").unlink()  # a Python with its packages' scripts in another directory
    assert ui_command(STORE) == f"mlflow {SHOW}"


def test_for_a_server_the_ui_is_its_address() -> None:
    assert ui_command("https://a.b/c") == "https://a.b/c"
    assert ui_command("sqlite:////a b/x.db").endswith("ui --backend-store-uri 'sqlite:////a b/x.db'")


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize(
    "text", ["it's (1) #数据 a=b,[c]{d} $x ${y} `z` \\ !", "'all quoted'", '"', "null", "~/x", "a\\=b"]
)
def test_any_path_and_prompt_can_be_pasted(shell: str, text: str, environment: Path) -> None:
    command = predict_command({"model.path": f"/data/{text}", "adapter.path": text}, prompt=text)
    assert arriving(shell, command) == [f"/data/{text}", text, text]


def test_control_characters_are_pasted_into_bash(environment: Path) -> None:
    text = "a\nb\tc\x07\u3000'\\d\udcff"
    command = predict_command({"model.path": f"/{text}", "adapter.path": text}, prompt=text)
    assert command.isprintable()
    assert arriving("bash", command) == [f"/{text}", text, text]


def arriving(shell: str, command: str) -> list[str]:
    """The values that the command's overrides give, typed into a shell."""
    words = command.partition(" task=predict ")[2]
    code = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    ended = subprocess.run(
        [f"/bin/{shell}", "-c", f'"$0" -c "$1" {words}', PYTHON, code], check=True, capture_output=True, text=False
    )
    arguments = for_hydra([os.fsdecode(word) for word in ended.stdout.split(b"\0")], sweep=False)
    overrides = OverridesParser.create().parse_overrides(arguments)
    return [OmegaConf.create({"value": override.value()}).value for override in overrides]


def test_the_programs_exist() -> None:
    for command in (ui_command(STORE), predict_command({})):
        assert shutil.which(shlex.split(command)[0])
