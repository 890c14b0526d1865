"""MLflow runs: what the parent writes into them, the final status, and ranks that record nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tracking_support import YAML, some_config, tracking

from dscoder_exp.tracking import describe
from dscoder_exp.tracking.metrics import METRICS
from dscoder_exp.tracking.run import Run, SpooledRun, open_run
from dscoder_exp.tracking.store import create_run, create_sweep, end_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def test_a_jobs_run(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    config = some_config(uri)
    config.name = "n" * 300
    config.optim.lr = 1e-5
    config.data.source = "é" * 7000
    overrides = ["optim.lr=1e-5", "+experiment=tiny", "predict.prompt=" + "x" * 9000]
    run = client.get_run(create_run(uri, config, YAML, overrides, None))

    assert (run.info.status, run.info.run_name) == ("RUNNING", "n" * 250)
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    params = run.data.params
    assert (params["seed"], params["optim.lr"], params["train.max_steps"]) == ("1", "1e-05", "null")
    assert (params["train.prompts"], params["data.packing"]) == ('["é", "b \\"c\\""]', "true")
    assert len(params["data.source"]) == 6000
    assert "1" in params["data.source"].strip("é")  # the note on how many characters are left out
    assert not any(key.startswith("tracking.") for key in params)
    assert len(params) > 60
    tags = run.data.tags
    assert tags["overrides"].startswith("optim.lr=1e-5\n+experiment=tiny\npredict.prompt=xxx")
    assert len(tags["overrides"]) == 8000
    assert {
        "host",
        "command",
        "version.python",
        "version.mlflow",
        "version.dscoder_exp",
        "mlflow.user",
        "mlflow.source.name",
    } <= tags.keys()
    (config_yaml,) = tmp_path.glob(f"mlartifacts/demo/{run.info.run_id}/artifacts/*")
    assert (config_yaml.name, config_yaml.read_text()) == ("config.yaml", YAML)


def test_the_environment_names_the_experiment(uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other/a b")
    run = client.get_run(create_run(uri, some_config(uri), YAML, [], None))
    assert client.get_experiment(run.info.experiment_id).name == "other/a b"
    assert client.get_experiment_by_name("demo") is None
    assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["config.yaml"]


def test_a_sweeps_runs_have_a_parent_run_and_are_named_by_their_overrides(uri: str, client: MlflowClient) -> None:
    shared = ["+experiment=quickstart", "optim.lr=1e-4", "train.prompts=['a b']"]
    sweep = create_sweep(uri, "demo", "lengths", [*shared, "seq_length=128,256", "seed=1,2"])
    jobs = [
        ["experiment=quickstart", "optim.lr=1e-4", 'train.prompts=["a b"]', "seq_length=128", "seed=1"],
        [*shared, "+seq_length=256"],
        shared,
    ]
    runs = [client.get_run(create_run(uri, some_config(uri), YAML, job, sweep)) for job in jobs]
    assert [run.info.run_name for run in runs] == [
        "experiment=quickstart, seq_length=128, seed=1",
        "seq_length=256",
        "demo",
    ]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {sweep}
    assert {run.info.experiment_id for run in runs} == {client.get_run(sweep).info.experiment_id}
    assert client.get_run(sweep).data.tags["sweep"] == "true"


def test_a_run_whose_config_cannot_be_stored_is_failed(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    create_sweep(uri, "demo", "makes the experiment", [])
    (tmp_path / "mlartifacts").write_text("in the way")
    with pytest.raises(OSError, match="mlartifacts"):
        create_run(uri, some_config(uri), YAML, [], None)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    newest = client.search_runs([experiment.experiment_id])[0]
    assert (newest.info.run_name, newest.info.status) == ("demo", "FAILED")


def test_a_prompt_of_several_lines_is_no_part_of_a_jobs_name(uri: str, client: MlflowClient) -> None:
    prompt = "predict.prompt='a\nb'"
    sweep = create_sweep(uri, "demo", "sweep", ["+experiment=tiny", prompt, "seed=0,1"])
    run = client.get_run(create_run(uri, some_config(uri), YAML, ["+experiment=tiny", prompt, "seed=1"], sweep))
    assert run.info.run_name == "seed=1"


def test_the_final_status_can_be_corrected(uri: str, client: MlflowClient, run_id: str) -> None:
    end_run(uri, run_id, "FINISHED", None)
    ended = client.get_run(run_id).info.end_time
    time.sleep(0.01)
    end_run(uri, run_id, "FINISHED", None)
    assert client.get_run(run_id).info.end_time == ended
    end_run(uri, run_id, "FAILED", "rank 1: " + "e" * 9000)
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("rank 1: eee")
    assert len(run.data.tags["error"]) == 8000


def test_other_ranks_and_tracking_off_record_nothing(uri: str) -> None:
    off = tracking(uri)
    off.enabled = False
    for run in (open_run(tracking(uri, "some run"), "out", 1), open_run(off, "out", 0)):
        assert type(run) is Run
        with run:
            run.metrics({"train/loss": 1.0}, 1)
            run.params({"a": 1})
            run.tags({"a": "b"})
            run.text("a", "b")
            run.artifact(Path("none"))
    assert not Path("out").exists()
    with pytest.raises(ValueError, match=r"tracking\.run_id is empty"):
        open_run(tracking(uri), "out", 0)


def test_a_metrics_name_must_be_known(tmp_path: Path) -> None:
    with SpooledRun(tmp_path) as recording:
        for run in (Run(), recording):
            with pytest.raises(ValueError, match=r"unknown metric 'train/los' \(did you mean 'train/loss'\?\)"):
                run.metrics({"train/loss": 1.0, "train/los": 1.0}, 1)
    assert {name.split("/")[0] for name in METRICS} == {"train", "eval", "perf", "predict", "evaluate"}


def test_shorten_keeps_both_ends() -> None:
    assert describe.shorten("abc", 3) == "abc"
    short = describe.shorten("a" * 500 + "b" * 500, 200)
    assert len(short) == 200
    assert short.startswith("aaa")
    assert short.endswith("bbb")
