"""One way to an MLflow client, with MLflow's chatter off and nothing configured globally in MLflow."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # usage reports to MLflow's makers; read when mlflow is imported
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a server's "View run at …" would cut through the progress bar
    "GIT_PYTHON_REFRESH": "quiet",  # a machine without git is no news
}


def quiet() -> None:
    """Turn off MLflow's telemetry and INFO messages here and in child processes; call it before mlflow's import.

    What the user has set in the environment stays: `MLFLOW_LOGGING_LEVEL=INFO` brings the messages back.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Hydra sets the root logger to INFO, and alembic then names each of its 69 migrations.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(uri: str) -> MlflowClient:
    """A client of one store; several stores may be used in one process. The import takes 1-2 s."""
    quiet()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)
