"""MLflow's LoggedModels: a checkpoint's scores belong to it, so that MLflow's Models page sorts by them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

EXTERNAL = "mlflow.model.isExternal"  # MLflow's tag of a model whose files it doesn't hold
PATH_TAG = "path"
FORBIDDEN = re.compile(r"[/:.%\"']+")  # in a name: mlflow/utils/validation.py, _validate_logged_model_name


def scored_model(client: MlflowClient, run_id: str, fields: Mapping[str, Any]) -> dict[str, str]:
    """Arguments of MLflow's `Metric` that tie it to a model and a data set; none for metrics of a run alone.

    Args:
        run_id: of the run that logs.
        fields: of a record, with those of Run.scores.
    """
    if "model" not in fields:
        return {}
    model = _found_or_created(client, run_id, fields["model"])
    dataset = fields["dataset"]
    return {"model_id": model.model_id, "dataset_name": dataset["name"], "dataset_digest": dataset["digest"]}


def _found_or_created(client: MlflowClient, run_id: str, described: Mapping[str, Any]) -> LoggedModel:
    """The model that a run made and named so; where the store lacks that run, one of the run that logs."""
    name = FORBIDDEN.sub("-", described["name"]) or "model"
    experiment, maker = _maker(client, run_id, described["run_id"])
    filter_string = f"name = '{name}' AND source_run_id = '{maker}'"
    found = client.search_logged_models([experiment], filter_string=filter_string)
    if found:
        return found[0]
    tags = {EXTERNAL: "true", PATH_TAG: str(described["path"])}
    model = client.create_logged_model(experiment, name, source_run_id=maker, tags=tags)
    return client.finalize_logged_model(model.model_id, "READY")


def _maker(client: MlflowClient, run_id: str, made_by: str | None) -> tuple[str, str]:
    """The experiment and id of the run that made a model."""
    from mlflow.exceptions import MlflowException

    if made_by is not None:
        try:
            run = client.get_run(made_by)
            if run.info.lifecycle_stage != "deleted":
                return run.info.experiment_id, made_by
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    return client.get_run(run_id).info.experiment_id, run_id
