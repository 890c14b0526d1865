"""MLFLOW_EXPERIMENT_ID and MLFLOW_RUN_ID: what they name is used, and refused where the store doesn't have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracking_support import YAML, logged, some_config

from dscoder_exp.schema.errors import Refused
from dscoder_exp.tracking.store import chosen_run, continue_run, create_run, create_sweep, end_run, open_store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT, RUN, NAME = "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"
Given = Any


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """given(MLFLOW_RUN_ID="…"): from then on these alone are set."""

    def set_only(**variables: str) -> None:
        for name in (EXPERIMENT, RUN, NAME):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_only


@pytest.fixture
def mine(client: MlflowClient) -> str:
    """An experiment that somebody has made."""
    return client.create_experiment("mine")


@pytest.fixture
def begun(client: MlflowClient, mine: str) -> str:
    """A run in it, as `mlflow run` makes one for the command that it starts: params are the entry point's."""
    run_id = client.create_run(mine, run_name="begun", tags={"mlflow.source.name": "project", "error": "x"}).info.run_id
    client.log_param(run_id, "seed", "7")
    client.log_param(run_id, "entry", "main")
    return run_id


def refusal(uri: str) -> str:
    with pytest.raises(Refused) as refused:
        open_store(uri)
    return str(refused.value)


def test_a_new_run_is_in_the_experiment_of_that_id(uri: str, client: MlflowClient, mine: str, given: Given) -> None:
    given(MLFLOW_EXPERIMENT_ID=mine)
    open_store(uri)
    run = client.get_run(create_run(uri, some_config(uri), YAML, [], None))
    assert run.info.experiment_id == mine
    assert client.get_experiment_by_name("demo") is None
    given(MLFLOW_EXPERIMENT_ID=mine, MLFLOW_EXPERIMENT_NAME="mine")
    open_store(uri)


def test_a_run_of_that_id_is_continued(
    uri: str, client: MlflowClient, begun: str, given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    given(MLFLOW_RUN_ID=begun)
    open_store(uri)
    assert chosen_run() == begun
    client.set_terminated(begun, "FAILED")
    config = some_config(uri)
    continue_run(uri, begun, config, YAML, ["seed=1"])
    with logged(uri, begun) as run:
        run.metrics({"train/loss": 1.5}, 1)
    end_run(uri, begun, "FINISHED", None)
    found = client.get_run(begun)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "begun")
    assert found.data.metrics == {"train/loss": 1.5}
    assert found.data.params["seed"] == "7"  # MLflow can't change it
    assert found.data.params["entry"] == "main"
    assert found.data.params["seq_length"] == str(config.seq_length)
    assert "keeps its params, which MLflow can't change: seed" in caplog.text
    assert (found.data.tags["overrides"], found.data.tags["mlflow.source.name"]) == ("seed=1", "project")
    assert "error" not in found.data.tags
    continue_run(uri, begun, replace(config, seq_length=9), "again", [])
    assert {entry.path for entry in client.list_artifacts(begun)} == {"config.yaml", "config-2.yaml"}
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_of_a_sweep_it_is_the_parent(uri: str, client: MlflowClient, begun: str, mine: str, given: Given) -> None:
    given(MLFLOW_RUN_ID=begun)
    parent = create_sweep(uri, "demo", "lengths", ["seq_length=128,256"])
    assert parent == begun
    assert client.get_run(parent).data.tags["sweep"] == "true"
    job = client.get_run(create_run(uri, some_config(uri), YAML, ["seq_length=128"], parent))
    assert (job.info.run_name, job.info.experiment_id) == ("seq_length=128", mine)
    assert job.data.tags["mlflow.parentRunId"] == begun


def test_unknown_ids_are_refused(uri: str, client: MlflowClient, mine: str, begun: str, given: Given) -> None:
    place = uri.removeprefix("sqlite:///")
    given(MLFLOW_RUN_ID="abc")
    assert f"{RUN}: {place} has no run 'abc', or it was deleted\n      -> unset {RUN}, or correct it" in refusal(uri)
    for unknown in ("77", "none"):
        given(MLFLOW_EXPERIMENT_ID=unknown)
        assert f"{EXPERIMENT}: {place} has no experiment {unknown!r}" in refusal(uri)
    given(MLFLOW_EXPERIMENT_ID="0", MLFLOW_RUN_ID=begun)
    assert f"{RUN}: the run is in experiment {mine}, but {EXPERIMENT}=0" in refusal(uri)
    given(MLFLOW_EXPERIMENT_ID=mine, MLFLOW_EXPERIMENT_NAME="other")
    assert f"{EXPERIMENT}: experiment {mine} is 'mine', but {NAME}=other" in refusal(uri)
    client.delete_run(begun)
    given(MLFLOW_RUN_ID=begun)
    assert "has no run" in refusal(uri)
    client.delete_experiment(mine)
    given(MLFLOW_EXPERIMENT_ID=mine)
    assert "has no experiment" in refusal(uri)
    given(MLFLOW_EXPERIMENT_ID=" ", MLFLOW_RUN_ID="")  # as good as unset
    open_store(uri)
    assert chosen_run() is None


def test_a_refusal_creates_no_database(tmp_path: Path, given: Given) -> None:
    given(MLFLOW_RUN_ID="abc", MLFLOW_EXPERIMENT_ID="3")
    assert "refused, 2 problems" in refusal(f"sqlite:///{tmp_path}/new.db")
    assert list(tmp_path.iterdir()) == []
