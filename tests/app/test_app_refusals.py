"""Bad input to the real command: exit code 2, one message that names key or file, nothing written, no mindspore."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from app_support import Command
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig

Refused = Callable[..., str]


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows, indent=1))
    return path


def test_a_7b_recipe_without_inputs_names_all_that_is_missing_within_seconds(without_libraries: Command) -> None:
    result = without_libraries("+experiment=finetune_8k")
    assert result.code == 2
    assert result.err.startswith("dscoder_exp: refused, 3 problems\n")
    for key in ("runtime.device: ascend needs 8 NPUs", "data.source: no data set", "model.path: no weights"):
        assert f"  - {key}" in result.err
    small = (
        "+experiment=finetune_8k model=tiny runtime=cpu parallel=single train.max_steps=3 seq_length=256 data=sample"
    )
    assert result.err.splitlines()[-1].endswith(f"python -m dscoder_exp {small}")
    assert "Traceback" not in result.err
    assert result.out == ""
    assert without_libraries.leftovers() == []
    assert result.cpu < 3  # documented as 2 s, usually 1 s; mindspore's import alone takes 4 s


def test_all_mistakes_of_a_command_line_are_reported_at_once(refused: Refused) -> None:
    message = refused(
        "+experiment=finetune_8k",
        "model=tiny",
        "runtime=cpu",
        "parallel=single",
        "optim.wieght_decay=0.1",
        "train.max_step=3",
        "optim.lr=abc",
        "train.micro_batch_size=0",
        "+predict.topk=3",
        "tracking=of",
        "what",
    )
    for words in (
        "refused, 7 problems",
        "optim.wieght_decay: unknown key\n      -> did you mean `optim.weight_decay`?",
        "train.max_step: unknown key\n      -> did you mean `train.max_steps`?",
        "optim.lr: must be a number, got 'abc'",
        "train.micro_batch_size: must be at least 1, got 0",
        "predict.topk: unknown key\n      -> did you mean `predict.top_k`?",
        "tracking=of: In 'config': Could not find 'tracking/of'. Available options in 'tracking': mlflow, off",
        "      -> did you mean `tracking=off`?",
        "what: not an override",
    ):
        assert words in message


def test_unknown_keys_and_missing_files_are_reported_together(refused: Refused, small: list[str]) -> None:
    message = refused(*small, "optim.lrr=1", "data.source=nowhere.json", "output_dir=/proc/nothing")
    assert "optim.lrr: unknown key" in message
    assert "data.source: no such file or directory: 'nowhere.json'" in message
    assert "output_dir: /proc/nothing can't be written: /proc is read-only" in message


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("+experiment=fintune_8k", "Available options in 'experiment': finetune_8k, finetune_lora, quickstart, tiny"),
        ("+experiment=fintune_8k", "did you mean `+experiment=finetune_8k`"),
        ("model=7", "Config group override must be a string"),
        ("model=7B", "Available options in 'model': 7b, 7b_instruct, from_path, smollm2_135m, tiny"),
        ("experiment=tiny", "To append to your default list use +experiment=tiny"),
        ("+experimnt=tiny", "experimnt: unknown key\n      -> did you mean `experiment`?"),
        ("modle=tiny", "modle: unknown key\n      -> did you mean `model`?"),
        ("hydra.launcher.worker_numm=2", "did you mean `hydra.launcher.worker_num`?"),
        ("hydra.launcher.grace=soon", "hydra.launcher.grace=soon: Value 'soon'"),
        ("hydra.launcher.master_port=1", "hydra.launcher.master_port=1: must be 1024"),
        ("hydra.mode=RUN", "hydra.mode: RUN bypasses the launcher"),
        ("output_dir=${nowhere}", "output_dir: can't be resolved: Interpolation key 'nowhere' not found"),
        ("tracking.run_id=abc", "tracking.run_id: is set at launch"),
        ("~optim.lr", "optim.lr: missing"),
    ],
)
def test_the_message_names_the_mistake(refused: Refused, argument: str, words: str) -> None:
    assert words in refused(argument)


def test_a_mistake_in_one_job_refuses_the_whole_sweep(refused: Refused, small: list[str]) -> None:
    message = refused("-m", *small, "seq_length=128,1", "seed=0,1", "model.init=random,randm")
    assert "seq_length: must be at least 2, got 1 (with seq_length=1, seed=0, model.init=random; " in message
    assert "model.init: must be one of pretrained, random; got 'randm' (with " in message


def test_a_sweep_that_cannot_be_composed(without_libraries: Command, small: list[str]) -> None:
    """In a process of its own: the sweeper's directory is removed at its end."""
    ended = without_libraries("-m", *small, "optim.lrr=1,2", "optimm.lr=1,2", "tracking=off,offf")
    assert (ended.code, ended.out, without_libraries.leftovers()) == (2, "", [])
    for words in ("optim.lrr: unknown key", "optimm.lr: unknown key", "did you mean `tracking=off`?"):
        assert words in ended.err


@pytest.mark.parametrize(("sweep", "times"), [([], 2), (["-m", "seed=0,1"], 3)])
def test_a_command_line_is_composed_once_for_all_jobs_and_once_for_each(
    refused: Refused, small: list[str], monkeypatch: pytest.MonkeyPatch, sweep: list[str], times: int
) -> None:
    load, composed = ConfigLoaderImpl._load_configuration_impl, []

    def counted(self: ConfigLoaderImpl, **named: Any) -> DictConfig:
        composed.append(named["overrides"])
        return load(self, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    refused(*sweep, *small, "data.source=none.json")
    assert len(composed) == times


def test_mistakes_in_a_yaml_file(refused: Refused, tmp_path: Path, small: list[str]) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\noptim:\n  warmup: 0.1\ntrain:\n  max_steps: many\n")
    message = refused("--config-dir", str(own.parent), "+experiment=mine", *small)
    assert "optim.warmup: unknown key\n      -> did you mean `optim.warmup_ratio` or `optim.warmup_steps`?" in message
    assert "train.max_steps: must be a whole number or null, got 'many'" in message
    (own / "mine.yaml").write_text("# @package _global_\noptim: [\n")
    message = refused("--config-dir", str(own.parent), "+experiment=mine", *small)
    assert f"{own / 'mine.yaml'}:3: not YAML" in message


@pytest.mark.parametrize(
    "name", ["数据/训练.json", "a=b.json", "it's (1), [2] {3}.json", "~no-such-user/${x.json", "'a' $b"]
)
def test_a_path_is_typed_once(refused: Refused, small: list[str], name: str) -> None:
    typed = [*small, f"data.source={name}", "name=实验一, 第二次"]
    for arguments in (typed, ["-m", *typed[:-2], f"data.source={name.replace(',', '')}", typed[-1], "seed=0,1"]):
        message = refused(*arguments)
        told = name.replace(",", "") if arguments[0] == "-m" else name
        assert message.startswith(f"dscoder_exp: refused\n  - data.source: no such file or directory: {told!r}"), (
            message
        )


def test_a_config_directory_of_any_name(refused: Refused, small: list[str], tmp_path: Path) -> None:
    own = tmp_path / "it's mine, 实验" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\noptim:\n  lr: 0\n")
    message = refused("--config-dir", str(own.parent), "+experiment=mine", *small, "train.max_step=1")
    assert "optim.lr: must be above 0" in message
    assert "train.max_step: unknown key" in message


def test_missing_data(refused: Refused, small: list[str]) -> None:
    assert "data.source: no such file or directory: 'none.json'" in refused(*small, "data.source=none.json")


def test_malformed_data(refused: Refused, small: list[str], tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a"}, {"instruction": "a", "output": "b"}, 3]
    path = write(tmp_path / "bad.json", rows)
    message = refused(*small, f"data.source={path}")
    assert f'{path}:6: row 2: there is no "output"' in message
    assert "(2 of 4 rows are bad)" in message


def test_empty_data(refused: Refused, small: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "empty.json", [])
    assert f"data.source: the data set is empty: {path}" in refused(*small, f"data.source={path}")


def test_a_model_directory_without_weights(refused: Refused, small: list[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    message = refused(*small, "model=from_path", f"model.path={empty}")
    assert f"model.path: {empty} holds no model" in message
    message = refused("task=predict", "predict.prompt=hello", f"model.path={empty}")
    assert f"model.path: {empty} holds no model" in message


def test_a_tokenizer_beyond_the_models_vocabulary(refused: Refused, small: list[str]) -> None:
    message = refused(*small, "model.vocab_size=8")
    assert "tokenizer.path: the tokenizer has ids up to 11, the model's vocabulary ends at 7" in message


def test_sizes_that_do_not_divide(refused: Refused, small: list[str]) -> None:
    message = refused(*small, "parallel.data=3", "train.global_batch_size=4")
    assert "train.global_batch_size: 4 sequences are not a multiple of train.micro_batch_size=1" in message
    assert "-> train.global_batch_size=3 or 6" in message
    message = refused(*small, "hydra.launcher.worker_num=2")
    assert "hydra.launcher.worker_num: 2 processes, but parallel.data" in message


def test_an_unpacked_sequence_above_the_context(refused: Refused, small: list[str]) -> None:
    message = refused(*small, "data.packing=false", "seq_length=8192")
    assert "seq_length: 8192 is above the model's context of 4096 tokens, and data.packing is off" in message


def test_a_read_only_output_directory(refused: Refused, small: list[str], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    message = refused(*small, f"output_dir={closed}/run")
    assert f"output_dir: {closed}/run can't be written: {closed} is read-only" in message


def test_a_sweep_directory_that_cannot_be_written(refused: Refused, small: list[str]) -> None:
    message = refused(*small, "hydra.sweep.dir=/proc/runs")
    assert "hydra.sweep.dir: /proc/runs: " in message
