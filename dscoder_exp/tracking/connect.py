"""One way to an MLflow client, with MLflow's chatter off and nothing configured globally in MLflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

BATCH_LIMIT = 100  # params that MLflow takes in one call
URI_VARIABLE = "MLFLOW_TRACKING_URI"
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # usage reports to MLflow's makers; read when mlflow is imported
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a server's "View run at …" would cut through the progress bar
    "GIT_PYTHON_REFRESH": "quiet",  # a machine without git is no news
}


def uri_key() -> str:
    """What names the store, for messages: the environment variable where it is set, else the configuration's key."""
    return URI_VARIABLE if os.environ.get(URI_VARIABLE, "").strip() else "tracking.uri"


def quiet() -> None:
    """Turn off MLflow's telemetry and INFO messages here and in child processes; call it before mlflow's import.

    What the user has set in the environment stays: `MLFLOW_LOGGING_LEVEL=INFO` brings the messages back.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Hydra sets the root logger to INFO, and alembic then names each of its 69 migrations.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(uri: str) -> MlflowClient:
    """A client of one store; several stores may be used in one process. The first one imports MLflow: 2-3 s."""
    quiet()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Log any number of params. MLflow refuses to change one that has a value."""
    from mlflow.entities import Param

    items = (Param(key, value) for key, value in params.items())
    while batch := list(islice(items, BATCH_LIMIT)):
        client.log_batch(run_id, params=batch)
