"""The parent's side of tracking: open the store, create runs, set their final status."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from dscoder_exp.schema.config import Config, TrackingConfig
from dscoder_exp.schema.errors import refuse
from dscoder_exp.tracking import describe
from dscoder_exp.tracking.connect import URI_VARIABLE, connect, log_params, sqlite_path, uri_key
from dscoder_exp.tracking.remote import check_server
from dscoder_exp.tracking.sqlite import open_sqlite

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]

_SERVERS = ("http", "https", "databricks")
_DATABASES = ("postgresql", "mysql", "mssql")
_SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def resolve_uri(tracking: TrackingConfig) -> str:
    """The tracking URI: MLFLOW_TRACKING_URI if it is set, else `tracking.uri`; sqlite paths are made absolute.

    Raises:
        Refused: a directory (MLflow 3 has no file store), an in-memory database, a path with ? or %, or an unknown
            scheme.
    """
    where = uri_key()
    value = os.environ.get(URI_VARIABLE, "").strip() or tracking.uri.strip()
    scheme = value.split(":", 1)[0].split("+", 1)[0] if ":" in value or value == "databricks" else ""
    if scheme in _SERVERS or scheme in _DATABASES:
        return value
    if scheme == "sqlite":
        path = value.partition(":///")[2]
        if not path or path == ":memory:":
            raise refuse(
                where, f"{value!r} is an in-memory database, which is lost when the process ends", "sqlite:///mlflow.db"
            )
    elif scheme in ("", "file"):
        path = urlsplit(value).path if scheme else value
        if not path.endswith(_SQLITE_SUFFIXES):
            remedy = f"give sqlite:///{path.rstrip('/') or '.'}/mlflow.db, or the address of an MLflow server"
            raise refuse(where, f"{value!r} names a directory, and MLflow 3 no longer writes to its file store", remedy)
    else:
        known = ", ".join(("sqlite", *_SERVERS, *_DATABASES))
        raise refuse(where, f"{value!r} has an unknown scheme", f"give sqlite:///PATH or one of: {known}")
    file = Path(os.path.expanduser(path)).absolute()
    if "?" in str(file) or "%" in str(file):
        what = f"{file}: a path can't contain ? or %, which MLflow reads as options and escapes"
        raise refuse(where, what, f"name another file: {where}=sqlite:///PATH/mlflow.db")
    return f"sqlite:///{file}"


def open_store(uri: str) -> None:
    """Create or migrate the sqlite database, or check that the server answers; safe in several processes at once.

    Args:
        uri: as returned by `resolve_uri`. Artifacts of a sqlite store are put beside it, in `mlartifacts/`.

    Raises:
        Refused: the store can't be written or reached, or this MLflow can't use its schema.
    """
    if uri.startswith("sqlite:"):
        open_sqlite(sqlite_path(uri))
    else:
        check_server(uri)


def create_sweep(uri: str, experiment: str, name: str, overrides: Sequence[str]) -> str:
    """Create the parent run of a sweep's jobs, RUNNING; returns its id. `overrides` are the sweep's, as typed."""
    client = connect(uri)
    tags = describe.tags_of(overrides) | {"sweep": "true"}
    return _create(client, uri, experiment, name, tags)


def create_run(
    uri: str, config: Config, resolved_yaml: str, overrides: Sequence[str], parent_run_id: str | None
) -> str:
    """Create a job's run, RUNNING, with params, tags and the artifact config.yaml; returns its id.

    If these can't be stored, the run's status becomes FAILED and the error is raised.

    Args:
        uri: an opened store.
        config: its leaves become the params.
        resolved_yaml: the content of config.yaml: the whole configuration, interpolations resolved.
        overrides: the job's. In a sweep, those that differ between jobs name the run (`seq_length=128`).
        parent_run_id: the sweep's run; None: the job is no part of a sweep.
    """
    client = connect(uri)
    tags = describe.tags_of(overrides)
    name = config.name
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id
        shared = client.get_run(parent_run_id).data.tags.get(describe.OVERRIDES_TAG, "")
        name = describe.distinguishing_overrides(overrides, shared) or name
    run_id = _create(client, uri, config.tracking.experiment, name, tags)
    try:
        log_params(client, run_id, describe.params_of(config))
        client.log_text(run_id, resolved_yaml, "config.yaml")
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    return run_id


def resume_run(uri: str, run_id: str, resolved_yaml: str, step: int) -> bool:
    """Set an earlier run to RUNNING again; False if the store doesn't have it or it was deleted.

    Its params can't change; the new configuration becomes the artifact config-after-step-N.yaml.

    Args:
        resolved_yaml: the new configuration, interpolations resolved.
        step: of the checkpoint that training resumes from.
    """
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    if run.info.lifecycle_stage == "deleted":
        return False
    client.update_run(run_id, status="RUNNING")
    if "error" in run.data.tags:
        client.delete_tag(run_id, "error")
    client.set_tag(run_id, "resumed_after_step", str(step))
    client.log_text(run_id, resolved_yaml, f"config-after-step-{step:06d}.yaml")
    return True


def end_run(uri: str, run_id: str, status: Status, error: str | None) -> None:
    """Set a run's final status and, unless `error` is None, its tag `error`. A later call may change both."""
    client = connect(uri)
    if error is not None:
        client.set_tag(run_id, "error", describe.shorten(error, describe.TAG_LIMIT))
    if client.get_run(run_id).info.status != status:  # setting the same status again would move the end time
        client.set_terminated(run_id, status)


def _create(client: MlflowClient, uri: str, experiment: str, name: str, tags: dict[str, str]) -> str:
    experiment_id = _experiment_id(client, uri, experiment)
    return client.create_run(experiment_id, tags=tags, run_name=name[: describe.NAME_LIMIT]).info.run_id


def _experiment_id(client: MlflowClient, uri: str, configured: str) -> str:
    """The experiment's id; creates the experiment if need be. MLFLOW_EXPERIMENT_NAME wins over the configuration."""
    from mlflow.exceptions import MlflowException

    chosen = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip()
    where, name = ("MLFLOW_EXPERIMENT_NAME", chosen) if chosen else ("tracking.experiment", configured)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_artifact_folder(uri, name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process has just created it
    assert found is not None
    if found.lifecycle_stage == "deleted":
        restore = f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore -x {found.experiment_id}"
        raise refuse(where, f"the experiment {name!r} was deleted in MLflow", f"choose another name, or: {restore}")
    return found.experiment_id


def _artifact_folder(uri: str, experiment: str) -> str | None:
    """Where the experiment's artifacts go: beside a sqlite database; None: the server chooses."""
    if not uri.startswith("sqlite:"):
        return None
    return str(sqlite_path(uri).parent / "mlartifacts" / quote(experiment, safe=""))
