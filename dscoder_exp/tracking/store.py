"""The parent's side of tracking: open the store, create runs, set their final status."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from dscoder_exp.schema.config import Config, TrackingConfig
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.tracking import describe
from dscoder_exp.tracking.connect import URI_VARIABLE, connect, log_params, sqlite_path, uri_key
from dscoder_exp.tracking.remote import check_server, without_password
from dscoder_exp.tracking.sqlite import open_sqlite

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
Status = Literal["FINISHED", "FAILED", "KILLED"]

# MLflow's own variables: the experiment and the run that it logs into
NAME_VARIABLE, EXPERIMENT_VARIABLE, RUN_VARIABLE = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"

# By it MLflow 3's pages show runs and charts, not traces of agents
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}

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
        Refused: the store can't be written or reached, this MLflow can't use its schema, or it lacks the experiment or
            the run that MLFLOW_EXPERIMENT_ID or MLFLOW_RUN_ID names; then no database is created.
    """
    if uri.startswith("sqlite:"):
        if not sqlite_path(uri).exists():
            _refuse_ids_of_a_new_store(uri)
        open_sqlite(sqlite_path(uri))
    else:
        check_server(uri)
    _refuse_unknown_ids(uri)


def chosen_run() -> str | None:
    """The run that MLFLOW_RUN_ID tells this launch to continue; None: a new one is created."""
    return _variable(RUN_VARIABLE)


def _refuse_ids_of_a_new_store(uri: str) -> None:
    """A new store has the experiment 0, Default, and no run."""
    given = {name: _variable(name) for name in (EXPERIMENT_VARIABLE, RUN_VARIABLE)}
    unknown = [_unknown(name, id, uri) for name, id in given.items() if id and (name, id) != (EXPERIMENT_VARIABLE, "0")]
    if unknown:
        raise Refused(unknown)


def _refuse_unknown_ids(uri: str) -> None:
    """Raise Refused unless the store has the experiment and the run that the environment names, and they agree."""
    run_id, experiment_id = chosen_run(), _variable(EXPERIMENT_VARIABLE)
    if run_id is None and experiment_id is None:
        return
    client = connect(uri)
    _given_experiment(client, uri)
    if run_id is None:
        return
    run = _existing_run(client, run_id)
    if run is None:
        raise Refused([_unknown(RUN_VARIABLE, run_id, uri)])
    if experiment_id is not None and run.info.experiment_id != experiment_id:
        what = f"the run is in experiment {run.info.experiment_id}, but {EXPERIMENT_VARIABLE}={experiment_id}"
        raise refuse(RUN_VARIABLE, what, f"unset {EXPERIMENT_VARIABLE}")


def _variable(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _unknown(variable: str, id: str, uri: str) -> Problem:
    kind = "run" if variable == RUN_VARIABLE else "experiment"
    place = sqlite_path(uri) if uri.startswith("sqlite:") else without_password(uri)
    return Problem(variable, f"{place} has no {kind} {id!r}, or it was deleted", f"unset {variable}, or correct it")


def create_sweep(uri: str, experiment: str, name: str, overrides: Sequence[str]) -> str:
    """Create the parent run of a sweep's jobs, or take up MLFLOW_RUN_ID's, RUNNING; returns its id.

    `overrides` are the sweep's, as typed.
    """
    client = connect(uri)
    tags = describe.tags_of(overrides) | {"sweep": "true"}
    if (run_id := chosen_run()) is not None:
        _take_up(client, run_id, tags)
        return run_id
    return _create(client, _experiment_id(client, uri, experiment), name, tags)


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
    if parent_run_id is not None and parent_run_id == chosen_run():  # its experiment holds its children
        experiment_id = client.get_run(parent_run_id).info.experiment_id
    else:
        experiment_id = _experiment_id(client, uri, config.tracking.experiment)
    run_id = _create(client, experiment_id, name, tags)
    try:
        log_params(client, run_id, describe.params_of(config))
        client.log_text(run_id, resolved_yaml, "config.yaml")
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    return run_id


def continue_run(uri: str, run_id: str, config: Config, resolved_yaml: str, overrides: Sequence[str]) -> None:
    """Set the run of MLFLOW_RUN_ID to RUNNING again, and add the job's params, tags and configuration.

    As MLflow wants it, params that the run has stay what they are; the artifact config.yaml, or config-2.yaml and so on
    if there is one already, has the job's values. The run keeps its name.
    """
    client = connect(uri)
    known = _take_up(client, run_id, describe.tags_of(overrides))
    params = describe.params_of(config)
    log_params(client, run_id, {key: value for key, value in params.items() if key not in known})
    changed = [key for key in params if key in known and params[key] != known[key]]
    if changed:
        log.warning("run %s keeps its params, which MLflow can't change: %s", run_id, ", ".join(changed))
    earlier = sum(file.path.startswith("config") for file in client.list_artifacts(run_id))
    client.log_text(run_id, resolved_yaml, f"config-{earlier + 1}.yaml" if earlier else "config.yaml")


def resume_run(uri: str, run_id: str, resolved_yaml: str, step: int) -> bool:
    """Set an earlier run to RUNNING again; False if the store doesn't have it or it was deleted.

    Its params can't change; the new configuration becomes the artifact config-after-step-N.yaml.

    Args:
        resolved_yaml: the new configuration, interpolations resolved.
        step: of the checkpoint that training resumes from.
    """
    client = connect(uri)
    if _existing_run(client, run_id) is None:
        return False
    _take_up(client, run_id, {"resumed_after_step": str(step)})
    client.log_text(run_id, resolved_yaml, f"config-after-step-{step:06d}.yaml")
    return True


def _existing_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run; None if the store doesn't have it, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return None if run.info.lifecycle_stage == "deleted" else run


def _take_up(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> Mapping[str, str]:
    """Set an existing run to RUNNING again, without an earlier error; returns its params."""
    from mlflow.entities import RunTag

    data = client.get_run(run_id).data
    client.update_run(run_id, status="RUNNING")
    if "error" in data.tags:
        client.delete_tag(run_id, "error")
    own = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}  # those are of the run's creator
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()])
    return data.params


def end_run(uri: str, run_id: str, status: Status, error: str | None) -> None:
    """Set a run's final status and, unless `error` is None, its tag `error`. A later call may change both."""
    client = connect(uri)
    if error is not None:
        client.set_tag(run_id, "error", describe.shorten(error, describe.TAG_LIMIT))
    if client.get_run(run_id).info.status != status:  # setting the same status again would move the end time
        client.set_terminated(run_id, status)


def _create(client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str]) -> str:
    return client.create_run(experiment_id, tags=tags, run_name=name[: describe.NAME_LIMIT]).info.run_id


def _experiment_id(client: MlflowClient, uri: str, configured: str) -> str:
    """The experiment's id; creates the experiment if need be. MLflow's variables win over the configuration."""
    from mlflow.exceptions import MlflowException

    if (given := _given_experiment(client, uri)) is not None:
        return given.experiment_id
    chosen = _variable(NAME_VARIABLE)
    where, name = (NAME_VARIABLE, chosen) if chosen else ("tracking.experiment", configured)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_artifact_folder(uri, name), tags=MODEL_TRAINING)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process has just created it
    assert found is not None
    if found.lifecycle_stage == "deleted":
        restore = f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore -x {found.experiment_id}"
        raise refuse(where, f"the experiment {name!r} was deleted in MLflow", f"choose another name, or: {restore}")
    return found.experiment_id


def _given_experiment(client: MlflowClient, uri: str) -> Experiment | None:
    """The experiment of MLFLOW_EXPERIMENT_ID, if that is set.

    Raises:
        Refused: there is none, it was deleted, or MLFLOW_EXPERIMENT_NAME names another one.
    """
    from mlflow.exceptions import MlflowException

    if (id := _variable(EXPERIMENT_VARIABLE)) is None:
        return None
    try:
        found = client.get_experiment(id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        found = None
    if found is None or found.lifecycle_stage == "deleted":
        raise Refused([_unknown(EXPERIMENT_VARIABLE, id, uri)])
    name = _variable(NAME_VARIABLE)
    if name is not None and name != found.name:
        what = f"experiment {id} is {found.name!r}, but {NAME_VARIABLE}={name}"
        raise refuse(EXPERIMENT_VARIABLE, what, "unset one of them")
    return found


def _artifact_folder(uri: str, experiment: str) -> str | None:
    """Where the experiment's artifacts go: beside a sqlite database; None: the server chooses."""
    if not uri.startswith("sqlite:"):
        return None
    return str(sqlite_path(uri).parent / "mlartifacts" / quote(experiment, safe=""))
