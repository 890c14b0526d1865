"""Scores of models: metrics of the run and of a LoggedModel, which is created once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tracking_support import YAML, logged, some_config

from dscoder_exp.tracking.run import Run
from dscoder_exp.tracking.store import create_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DATASET = {"name": "HumanEval.jsonl", "digest": "0123456789abcdef"}


def models_of(client: MlflowClient, run_id: str) -> dict[str, dict[str, float]]:
    """Name -> metric -> value of all models of the run's experiment."""
    found = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    return {model.name: {metric.key: metric.value for metric in model.metrics or ()} for model in found}


def test_a_score_belongs_to_the_run_and_to_the_model(uri: str, client: MlflowClient, run_id: str) -> None:
    with logged(uri, run_id) as run:
        for step in (10, 20):
            model = {"name": f"step-{step:06d}", "run_id": None, "path": f"checkpoints/step-{step:06d}"}
            run.scores({"evaluate/pass_at_1": step / 100, "evaluate/pass_at_1_low": 0.05}, step, model, DATASET)
        run.metrics({"train/loss": 1.0}, 20)
    assert client.get_run(run_id).data.metrics["evaluate/pass_at_1"] == 0.2
    assert models_of(client, run_id) == {
        "step-000010": {"evaluate/pass_at_1": 0.1, "evaluate/pass_at_1_low": 0.05},
        "step-000020": {"evaluate/pass_at_1": 0.2, "evaluate/pass_at_1_low": 0.05},
    }
    (best, _) = client.search_logged_models(
        [client.get_run(run_id).info.experiment_id],
        order_by=[{"field_name": "metrics.evaluate/pass_at_1", "ascending": False}],
    )
    assert (best.name, best.source_run_id, best.tags["path"]) == ("step-000020", run_id, "checkpoints/step-000020")
    metric = (best.metrics or [])[0]
    assert (metric.dataset_name, metric.dataset_digest) == (DATASET["name"], DATASET["digest"])


def test_another_run_s_score_goes_to_the_same_model(uri: str, client: MlflowClient, run_id: str) -> None:
    other = create_run(uri, some_config(uri), YAML, [], None)
    model = {"name": "step-000010", "run_id": run_id, "path": "x"}
    for name, value, logs in (("evaluate/pass_at_1", 0.1, run_id), ("evaluate/loss", 1.5, other)):
        with logged(uri, logs, resumed=True) as run:
            run.scores({name: value}, 0, model, DATASET)
    assert models_of(client, run_id) == {"step-000010": {"evaluate/pass_at_1": 0.1, "evaluate/loss": 1.5}}


@pytest.mark.parametrize("made_by", ["0" * 32, None])
def test_a_model_of_an_unknown_run_is_one_of_the_run_that_logs(
    uri: str, client: MlflowClient, run_id: str, made_by: str | None
) -> None:
    with logged(uri, run_id) as run:
        run.scores({"evaluate/loss": 1.5}, 0, {"name": "Own-7B.Q4:1/%'", "run_id": made_by, "path": "x"}, DATASET)
    (model,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert (model.name, model.source_run_id) == ("Own-7B-Q4-1-", run_id)


def test_unknown_names_are_rejected() -> None:
    with pytest.raises(ValueError, match="unknown metric 'evaluate/pass_at_one'"):
        Run().scores({"evaluate/pass_at_one": 1.0}, 0, {}, DATASET)
