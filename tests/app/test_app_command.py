"""The command's information options, and the configuration that a job receives."""

import json
from pathlib import Path

import pytest
import yaml
from app_support import Command
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dscoder_exp import app
from dscoder_exp.app import config_directory, quote_prompt


def test_the_composed_recipe_is_shown(refusing: Command) -> None:
    result = refusing("+experiment=finetune_8k", "--cfg", "job")
    assert result.code == 0, result.err
    shown = yaml.safe_load(result.out)
    assert (shown["model"]["num_hidden_layers"], shown["seq_length"], shown["train"]["epochs"]) == (30, 8192, 2.0)
    assert refusing("+experiment=finetune_8k", "--cfg", "job", "--resolve", "-p", "runtime").code == 0
    assert refusing.leftovers() == []


def test_help_lists_every_experiment_and_group(refusing: Command) -> None:
    result = refusing("--help")
    assert result.code == 0
    conf = config_directory()
    for experiment in conf.glob("experiment/*.yaml"):
        assert f"+experiment={experiment.stem}" in result.out
    for group in (path for path in conf.iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"\n{group.name}: {', '.join(sorted(file.stem for file in group.glob('*.yaml')))}\n" in result.out


@pytest.mark.parametrize("what", ["defaults", "config", "searchpath"])
def test_info_is_shown(refusing: Command, what: str) -> None:
    result = refusing("--info", what, "+experiment=tiny")
    assert (result.code, refusing.leftovers()) == (0, [])
    assert result.out + result.err


def test_shell_completion(refusing: Command) -> None:
    refusing.environment["COMP_LINE"] = "dscoder_exp model="
    assert "model=7b_instruct" in refusing("-sc", "query=bash").out.split()
    refusing.environment["COMP_LINE"] = "dscoder_exp optim.w"
    found = refusing("-sc", "query=bash").out.split()
    assert found == ["optim.warmup_ratio=", "optim.warmup_steps=", "optim.weight_decay="]


def test_an_unknown_flag_is_argparses_error(refusing: Command) -> None:
    result = refusing("--nope")
    assert (result.code, refusing.leftovers()) == (2, [])
    assert "unrecognized arguments: --nope" in result.err


def test_hydra_full_error_prints_the_traceback(refusing: Command) -> None:
    refusing.environment["HYDRA_FULL_ERROR"] = "1"
    result = refusing("optim.lrr=1")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "did you mean `optim.lr`?" in result.err


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_a_prompt_arrives_as_it_was_typed(text: str) -> None:
    if text[0] in "'\"":
        text = "x" + text  # a leading quote means that the value is already quoted for Hydra
    override = OverridesParser.create().parse_overrides(quote_prompt([f"predict.prompt={text}"]))[0]
    assert not override.is_sweep_override()
    assert OmegaConf.create({"prompt": override.value()}).prompt == text


@pytest.mark.parametrize("arguments", [["-m", "predict.prompt=a,b"], ["predict.prompt='a, b'"], ["predict.prompt="]])
def test_a_quoted_or_swept_prompt_is_unchanged(arguments: list[str]) -> None:
    assert quote_prompt(arguments) == arguments


def test_a_job_gets_what_was_typed(command: Command, small: list[str]) -> None:
    prompt = "Explain f(x, y) = [1, 2]: why ${x}?"
    result = command(
        *small, "tracking=off", "output_dir=out", f"predict.prompt={prompt}", "runtime.cache_dir='~/cached'"
    )
    assert result.code == 0, result.err
    config = json.loads((command.directory / "out/config.json").read_text())
    assert config["predict"]["prompt"] == prompt
    assert config["output_dir"] == str(command.directory / "out")
    assert config["runtime"]["cache_dir"] == str(command.directory.parent / "home/cached")
    assert not (command.directory / "mlflow.db").exists()


def test_existing_checkpoints_are_not_overwritten(command: Command, small: list[str]) -> None:
    (command.directory / "out/checkpoints").mkdir(parents=True)
    result = command(*small, "tracking=off", "output_dir=out")
    assert result.code == 2
    assert "output_dir: " in result.err
    assert "already holds checkpoints" in result.err
    assert [path.name for path in command.directory.iterdir()] == ["out"]


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
