"""Checks of all jobs of a launch, with files and a machine made for the test."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from dscoder_exp.app import config_directory
from dscoder_exp.preflight import inputs as inputs_module
from dscoder_exp.preflight import machine
from dscoder_exp.preflight.jobs import check_jobs, sweep_overrides
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Refused
from dscoder_exp.storage.directory_lock import lock_directory

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture
def nodes(free_port: Callable[[], int]) -> list[str]:
    """Overrides of a job with one process on each of several nodes, this one being node 0."""
    port = f"hydra.launcher.master_port={free_port()}"
    return ["hydra.launcher.master_addr=127.0.0.1", "hydra.launcher.local_worker_num=1", port]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """check([overrides of a job], …) -> the jobs' configurations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def composed(number: int, overrides: list[str]) -> DictConfig:
        config = compose("config", overrides, return_hydra_config=True)
        with open_dict(config):
            config.hydra.job.num = number
        return config

    def check_all(*jobs: list[str]) -> list[Config]:
        return check_jobs([composed(number, overrides) for number, overrides in enumerate(jobs)], jobs)

    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        yield check_all


@pytest.fixture
def refused(check: Any) -> Any:
    """refused([overrides of a job], …) -> {where: what} of all problems, and the hint."""

    def refuse(*jobs: list[str]) -> tuple[dict[str, str], str]:
        with pytest.raises(Refused) as refused:
            check(*jobs)
        return {problem.where: problem.what for problem in refused.value.problems}, refused.value.hint

    return refuse


@pytest.fixture
def npus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """npus(4): from then on the machine has four NPUs."""

    def have(number: int) -> None:
        devices = tmp_path / "dev"
        devices.mkdir()
        for name in ("davinci_manager", *(f"davinci{index}" for index in range(number))):
            (devices / name).touch()
        monkeypatch.setattr(machine, "DEVICES", devices)
        monkeypatch.delenv(machine.VISIBLE_DEVICES, raising=False)

    return have


def test_an_output_directory_in_use_is_refused(
    refused: Any, check: Any, small: list[str], nodes: list[str], tmp_path: Path
) -> None:
    """Of several nodes that of rank 0 has locked it for all of them."""
    lock = lock_directory(tmp_path / "a", "output_dir")
    (tmp_path / "a" / "checkpoints").mkdir()
    job = [*small, "output_dir=a"]
    problems, _ = refused(job)
    assert problems["output_dir"].startswith(f"{tmp_path}/a is in use by process {os.getpid()} on ")
    problems, _ = refused([*job, "train.resume=auto"], [*small, "output_dir=b"])
    assert "is in use by process" in problems["output_dir"]
    assert "(with output_dir=a" in problems["output_dir"]
    check([*job, "train.resume=auto", "parallel=dp2", *nodes, "hydra.launcher.node_rank=1"])
    lock.release()
    problems, _ = refused(job)
    assert "already holds checkpoints" in problems["output_dir"]
    check([*job, "train.resume=auto"])


def test_the_directory_of_a_single_job(refused: Any, check: Any, small: list[str], tmp_path: Path) -> None:
    [config] = check([*small, "hydra.run.dir=a/b"])
    assert config.output_dir == f"{tmp_path}/a/b"
    [config] = check([*small, "hydra.run.dir='~/b'", "hydra.sweep.dir=c"])
    assert config.output_dir == os.path.expanduser("~/b")
    [config] = check([*small, "hydra.sweep.dir=c"])
    assert config.output_dir == f"{tmp_path}/c/0"
    problems, _ = refused(*([*small, "hydra.run.dir=a", f"seed={seed}"] for seed in (1, 2)))
    assert problems == {"hydra.run.dir": "the directory of a single job, and this sweep has 2"}


def test_paths_and_the_tracking_uri_come_out_absolute(check: Any, small: list[str], tmp_path: Path) -> None:
    [config] = check(
        [*small, "output_dir=a/b", "data.output=c", "runtime.cache_dir='~/d'", "tracking.uri=sqlite:///e.db"]
    )
    assert (config.output_dir, config.data.output) == (f"{tmp_path}/a/b", f"{tmp_path}/c")
    assert config.runtime.cache_dir == os.path.expanduser("~/d")
    assert config.tracking.uri == f"sqlite:///{tmp_path}/e.db"
    assert list(tmp_path.iterdir()) == []


def test_npus_are_counted(refused: Any, check: Any, npus: Any, small: list[str], nodes: list[str]) -> None:
    npus(4)
    found, hint = refused([*small, "runtime=ascend", "parallel=dp8"])
    assert set(found) == {"runtime.device"}
    assert "needs 8 NPUs" in found["runtime.device"]
    assert "has 4 (" in found["runtime.device"]
    assert hint.endswith(
        "python -m dscoder_exp model=tiny runtime=cpu parallel=single train.max_steps=3 seq_length=256 data=sample"
    )
    check([*small, "runtime=ascend", "parallel=dp2"])
    check([*small, "runtime=ascend", "parallel=dp8", *nodes, "hydra.launcher.local_worker_num=4", "output_dir=run"])


def test_visible_npus_are_counted(
    refused: Any, check: Any, npus: Any, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    npus(8)
    four = [*small, "runtime=ascend", "parallel=dp4"]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5,7")
    found, _ = refused(four)
    assert found == {
        "runtime.device": "ascend needs 4 NPUs, one per rank, and ASCEND_RT_VISIBLE_DEVICES=4,5,7 makes 3 of this "
        "machine's 8 visible"
    }
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "2,4,5,7")
    check(four)
    check([*small, "parallel=dp4"])  # irrelevant on the CPU


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        # Ascend Docker Runtime's variable ASCEND_VISIBLE_DEVICES may contain ranges.
        ("0-3", "is not a comma-separated list of numbers"),
        ("0, 1,2,3", "is not a comma-separated list of numbers"),
        ("0,1,2,-1", "is not a comma-separated list of numbers"),
        ("", "is not a comma-separated list of numbers"),
        ("3,2,1,0", "is not in strictly ascending order"),
        ("0,1,1,2", "is not in strictly ascending order"),
        ("0,1,2,8", "names NPU 8, but this machine has 0 to 7"),
    ],
)
def test_a_list_of_visible_npus_that_cann_would_not_read_whole_is_refused(
    refused: Any, npus: Any, small: list[str], monkeypatch: pytest.MonkeyPatch, listed: str, words: str
) -> None:
    npus(8)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", listed)
    found, _ = refused([*small, "runtime=ascend", "parallel=dp2"])
    assert set(found) == {"ASCEND_RT_VISIBLE_DEVICES"}
    assert f"{listed!r} {words}" in found["ASCEND_RT_VISIBLE_DEVICES"]


def test_without_npus_the_list_of_visible_ones_is_irrelevant(
    refused: Any, npus: Any, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    npus(0)  # a container may have davinci_manager without NPUs
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    found, _ = refused([*small, "runtime=ascend", "parallel=dp2"])
    assert "this machine has none" in found["runtime.device"]


def test_preparing_data_needs_neither_npus_nor_weights(check: Any, inputs: Path) -> None:
    base = ["task=prepare", "+experiment=finetune_8k", f"data.source={inputs}/rows.json", f"tokenizer.path={inputs}"]
    check([*base, "model=tiny"])
    check([*base, "model=from_path", "model.eos_token_id=1"])


def test_a_tokenizer_without_the_7b_models_special_tokens_is_refused(refused: Any, inputs: Path) -> None:
    base = ["task=prepare", "model=7b", f"data.source={inputs}/rows.json", f"tokenizer.path={inputs}"]
    found, _ = refused(base)
    assert "the model's bos_token_id 100000 is not in the tokenizer" in found["tokenizer.path"]


def test_stop_tokens_must_be_of_the_models_vocabulary(refused: Any, check: Any) -> None:
    ask = ["task=predict", "model=tiny", "predict.prompt=x"]
    (config,) = check([*ask, "predict.stop_token_ids=[7,1023]"])
    assert config.predict.stop_token_ids == [7, 1023]
    found, _ = refused([*ask, "predict.stop_token_ids=[7,1024,9999]"])
    assert found == {"predict.stop_token_ids": "1024, 9999: above the model's vocabulary, which ends at 1023"}
    found, _ = refused([*ask, "predict.stop_token_ids=7"])
    assert found == {"predict.stop_token_ids": "must be a list, each a whole number, got 7"}
    found, _ = refused([*ask, "predict.stop_token_ids=[-1]"])
    assert found == {"predict.stop_token_ids": "must be at least 0, got -1"}


def test_the_context_comes_from_the_models_path(refused: Any, check: Any, inputs: Path) -> None:
    model = [f"model.path={REFERENCE}/tiny_gqa", f"data.source={inputs}/rows.json", f"tokenizer.path={inputs}"]
    context = json.loads((REFERENCE / "tiny_gqa/config.json").read_text())["max_position_embeddings"]
    check([*model, f"seq_length={context}", "data.packing=false"])
    check([*model, f"seq_length={context + 1}"])
    for task in ("train", "prepare"):
        found, hint = refused([*model, f"task={task}", f"seq_length={context + 1}", "data.packing=false"])
        assert list(found) == ["seq_length"]
        assert f"above the model's context of {context} tokens" in found["seq_length"]
        assert hint == ""


def test_incomplete_weights_are_found_in_the_headers(refused: Any, inputs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    values = json.loads((REFERENCE / "tiny_gqa/config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"num_hidden_layers": values["num_hidden_layers"] + 1}))
    (directory / "model.safetensors").symlink_to(REFERENCE / "tiny_gqa/model.safetensors")
    found, _ = refused(["task=predict", "predict.prompt=hi", f"model.path={directory}", f"tokenizer.path={inputs}"])
    assert list(found) == ["model.path"]
    assert "9 missing" in found["model.path"]


def test_without_a_model_the_tokenizer_is_checked_anyway(refused: Any, tmp_path: Path) -> None:
    found, _ = refused(["task=predict", "predict.prompt=hi", f"tokenizer.path={tmp_path}"])
    assert set(found) == {"model.path", "tokenizer.path"}


def test_a_sweep_reads_each_file_once(check: Any, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(source: str) -> Mock:
        read.append(source)
        return Mock()

    monkeypatch.setattr(inputs_module, "read_source", counted)
    jobs = [[*small, f"seed={seed}", f"data.source={source}"] for seed in (0, 1, 2) for source in ("a", "b")]
    assert len(check(*jobs)) == 6
    assert [Path(source).name for source in read] == ["a", "b"]


def test_a_problem_of_some_jobs_names_them(refused: Any, small: list[str]) -> None:
    jobs = [[*small, f"seq_length={length}", "data.packing=false"] for length in (128, 5000, 6000)]
    found, _ = refused(*jobs)
    assert found["seq_length"].endswith("(with seq_length=6000)")
    found, _ = refused(*[[*small, "data.source=none.json", f"seed={seed}"] for seed in range(3)])
    assert found == {"data.source": found["data.source"]}
    assert "with seed" not in found["data.source"]
    found, _ = refused(*[[*small, "optim.betas=[0.9]", f"seed={seed}"] for seed in range(5)], small)
    assert found["optim.betas"].endswith(
        "(with optim.betas=[0.9], seed=0; optim.betas=[0.9], seed=1; optim.betas=[0.9], seed=2; 2 more)"
    )


def test_jobs_with_the_same_output_directory_are_refused(refused: Any, check: Any, small: list[str]) -> None:
    found, _ = refused(*[[*small, "output_dir=same", f"seed={seed}"] for seed in (0, 1)])
    assert list(found) == ["output_dir"]
    own = [[*small, "output_dir=same/${hydra:job.num}", f"seed={seed}"] for seed in (0, 1)]
    assert [Path(config.output_dir).name for config in check(*own)] == ["0", "1"]


@pytest.mark.parametrize("key", ["output_dir", "data.output", "runtime.cache_dir"])
@pytest.mark.parametrize("how", ["a file", "read-only"])
def test_an_unwritable_directory_is_refused(refused: Any, small: list[str], tmp_path: Path, key: str, how: str) -> None:
    blocked = tmp_path / "blocked"
    if how == "a file":
        blocked.touch()
    else:
        blocked.mkdir(mode=0o555)
    found, _ = refused([*small, f"{key}={blocked}/deep/down"])
    assert list(found) == [key]
    assert how in found[key]
    assert f"{blocked}/deep/down can't be written" in found[key]


def test_unused_directories_are_not_checked(check: Any, small: list[str]) -> None:
    check([*small, "data.output=here", "runtime.cache_dir=/proc/cache"])
    check([*small, "task=predict", "predict.prompt=hi", "runtime.cache_dir=/proc/cache"])


def test_problems_of_launcher_options_are_reported_with_the_others(refused: Any, small: list[str]) -> None:
    found, _ = refused([*small, "hydra.launcher.local_worker_num=4", "data.source=none.json"])
    assert set(found) == {"hydra.launcher", "data.source"}
    assert "local_worker_num=4 exceeds worker_num=1" in found["hydra.launcher"]
    found, _ = refused([*small, "hydra.launcher.grace=${nowhere}"])
    assert set(found) == {"hydra.launcher"}


def test_several_nodes_need_a_common_output_directory(
    refused: Any, check: Any, small: list[str], nodes: list[str]
) -> None:
    two = [*small, "parallel=dp2", *nodes]
    for own in ([], ["output_dir=${hydra:runtime.output_dir}/mine"]):
        found, _ = refused([*two, *own])
        assert list(found) == ["output_dir"]
        assert "is in Hydra's output directory, which differs between nodes" in found["output_dir"]
    check([*two, "output_dir=runs/${name}"])
    check([*two, "output_dir=run", "hydra.launcher.node_rank=1"])
    found, _ = refused([*two, "output_dir=run", "hydra.launcher.node_rank=2"])
    assert "node_rank=2: there are 2 nodes, 1 of 2 processes on each" in found["hydra.launcher"]


def test_a_file_store_is_refused_unless_tracking_is_off(refused: Any, check: Any, small: list[str]) -> None:
    found, _ = refused([*small, "tracking.uri=./mlruns"])
    assert list(found) == ["tracking.uri"]
    [config] = check([*small, "tracking.uri=./mlruns", "tracking=off"])
    assert not config.tracking.enabled


def test_the_sweeps_overrides_are_recovered_from_its_jobs() -> None:
    jobs = [["+experiment=tiny", f"seed={seed}", f"seq_length={length}"] for seed in (0, 1) for length in (128, 256)]
    assert sweep_overrides(jobs) == ["+experiment=tiny", "seed=0,1", "seq_length=128,256"]
    assert sweep_overrides([["a=1"]]) == ["a=1"]
    assert sweep_overrides([]) == []
