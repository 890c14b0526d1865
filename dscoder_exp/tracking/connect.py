"""Creating MLflow clients, with MLflow's log messages off and without its global tracking URI."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.storage.disk_space import naming_full_disk

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PARAMS_PER_CALL = 100  # MLflow's limit
URI_VARIABLE = "MLFLOW_TRACKING_URI"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # usage reports to MLflow's developers; read when mlflow is imported
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a server's "View run at …" would break the progress bar
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # a bar for each file
    "GIT_PYTHON_REFRESH": "quiet",  # no warning on a machine without git
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # for 4 s, not minutes: what a server doesn't accept waits in the spool
}


def uri_key() -> str:
    """Where the tracking URI comes from, for messages: the environment variable if it is set, else the config key."""
    return URI_VARIABLE if os.environ.get(URI_VARIABLE, "").strip() else "tracking.uri"


def silence_mlflow() -> None:
    """Turn off MLflow's telemetry and INFO messages, here and in child processes; call it before importing mlflow.

    Variables that the user has set are kept: `MLFLOW_LOGGING_LEVEL=INFO` brings the messages back.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Hydra sets the root logger to INFO, at which alembic logs each of its 69 migrations.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`; one process may use several stores. The first call imports MLflow: 2-3 s."""
    silence_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def sqlite_path(uri: str) -> Path:
    """The database file of a sqlite URI."""
    return Path(uri.removeprefix("sqlite:///"))


def naming_full_store(uri: str) -> AbstractContextManager[None]:
    """Raises DiskFull where the body can't write to the sqlite store at `uri`, or to MLflow's temporary files."""
    if not uri.startswith("sqlite:"):
        return nullcontext()
    return naming_full_disk(sqlite_path(uri), uri_key(), temporary_files=True)


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Log any number of params, in batches. MLflow raises where a param already has another value."""
    from mlflow.entities import Param

    items = (Param(key, value) for key, value in params.items())
    while batch := list(islice(items, PARAMS_PER_CALL)):
        client.log_batch(run_id, params=batch)
