"""The command's information options, and the configuration that a job receives."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from app_support import Command
from command_line import CommandLine

from dscoder_exp import app
from dscoder_exp.app import config_directory


def test_the_composed_recipe_is_shown(command_line: CommandLine) -> None:
    result = command_line("+experiment=finetune_8k", "--cfg", "job")
    assert result.code == 0, result.err
    shown = yaml.safe_load(result.out)
    assert (shown["model"]["num_hidden_layers"], shown["seq_length"], shown["train"]["epochs"]) == (30, 8192, 2.0)
    assert command_line("+experiment=finetune_8k", "--cfg", "job", "--resolve", "-p", "runtime").code == 0
    assert command_line.leftovers() == []


def test_help_lists_every_experiment_and_group(without_libraries: Command) -> None:
    result = without_libraries("--help")
    assert result.code == 0
    conf = config_directory()
    for experiment in conf.glob("experiment/*.yaml"):
        assert f"+experiment={experiment.stem}" in result.out
    for group in (path for path in conf.iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"\n{group.name}: {', '.join(sorted(file.stem for file in group.glob('*.yaml')))}\n" in result.out


@pytest.mark.parametrize("what", ["defaults", "config", "searchpath"])
def test_info_is_shown(command_line: CommandLine, what: str) -> None:
    result = command_line("--info", what, "+experiment=tiny")
    assert (result.code, command_line.leftovers()) == (0, [])
    assert result.out + result.err


def test_shell_completion(command_line: CommandLine) -> None:
    command_line.environment["COMP_LINE"] = "dscoder_exp model="
    assert "model=7b_instruct" in command_line("-sc", "query=bash").out.split()
    command_line.environment["COMP_LINE"] = "dscoder_exp optim.w"
    found = command_line("-sc", "query=bash").out.split()
    assert found == ["optim.warmup_ratio=", "optim.warmup_steps=", "optim.weight_decay="]


def test_an_unknown_flag_is_argparses_error(command_line: CommandLine) -> None:
    result = command_line("--nope")
    assert (result.code, command_line.leftovers()) == (2, [])
    assert "unrecognized arguments: --nope" in result.err


def test_hydra_full_error_prints_the_traceback(command_line: CommandLine) -> None:
    command_line.environment["HYDRA_FULL_ERROR"] = "1"
    result = command_line("optim.lrr=1")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "did you mean `optim.lr`?" in result.err


@pytest.mark.slow
def test_a_job_gets_what_was_typed(command: Command, small: list[str]) -> None:
    """And a job that is given the recorded overrides gets the same."""
    prompt = "'Explain' f(x, y) = [1, 2]:\nwhy ${x}? \\"
    shutil.copytree(small[1].partition("=")[2], command.directory / "in ${put}, 数据")
    typed = [
        *["model=tiny", "tokenizer.path=in ${put}, 数据", "data.source=in ${put}, 数据/rows.json", "tracking=off"],
        *["output_dir=it's ${seed} (1)", "name=实验一", f"predict.prompt={prompt}", "runtime.cache_dir=~/cached"],
    ]
    result = command(*typed)
    assert result.code == 0, result.err
    written = command.directory / "it's 0 (1)/config.json"
    config = json.loads(written.read_text())
    assert config["predict"]["prompt"] == prompt
    assert config["name"] == "实验一"
    assert config["output_dir"] == str(written.parent)
    assert config["data"]["source"] == str(command.directory / "in ${put}, 数据/rows.json")
    assert config["runtime"]["cache_dir"] == str(command.directory.parent / "home/cached")
    assert not (command.directory / "mlflow.db").exists()
    [recorded] = command.directory.rglob(".hydra/overrides.yaml")
    written.unlink()
    result = command(*yaml.safe_load(recorded.read_text()))
    assert result.code == 0, result.err
    assert json.loads(written.read_text()) == config


def test_an_empty_cache_variable_is_none(command_line: CommandLine) -> None:
    command_line.environment["XDG_CACHE_HOME"] = ""
    result = command_line("--cfg", "job", "--resolve", "-p", "runtime")
    assert f"\ncache_dir: {command_line.directory.parent}/home/.cache/dscoder_exp\n" in result.out


def test_existing_checkpoints_are_not_overwritten(command: Command, small: list[str]) -> None:
    (command.directory / "out/checkpoints").mkdir(parents=True)
    result = command(*small, "tracking=off", "output_dir=out")
    assert result.code == 2
    assert "output_dir: " in result.err
    assert "already holds checkpoints" in result.err
    assert [path.name for path in command.directory.iterdir()] == ["out"]


@pytest.mark.slow
def test_exit_codes_of_a_task_that_runs_in_the_parent(command: Command, small: list[str]) -> None:
    done = command("task=prepare", *small)
    assert (done.code, done.err) == (0, ""), done.err
    refused = command("task=prepare", *small, "name=refuse")
    assert refused.code == 2
    assert refused.err.endswith("data.output: holds something else\n      -> give another directory\n")
    failed = command("task=prepare", *small, "name=raise")
    assert failed.code == 1
    assert failed.err.endswith('raise ValueError("boom")\nValueError: boom\n')
    assert "hydra" not in failed.err.partition("Traceback")[2]
    assert not (command.directory / "mlflow.db").exists()


def test_the_packaged_configuration_wins_over_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("conf", "dscoder_exp/conf"):
        (tmp_path / directory).mkdir(parents=True)
    monkeypatch.setattr(app, "__file__", str(tmp_path / "dscoder_exp/app.py"))
    assert config_directory() == tmp_path / "dscoder_exp/conf"
    (tmp_path / "dscoder_exp/conf").rmdir()
    assert config_directory() == tmp_path / "conf"
