"""Checking that a tracking server or database server answers: one attempt with a short time limit."""

from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.tracking.connect import connect, silence_mlflow, uri_key

_TIMEOUT_S = 5  # for connecting, and again for the answer


def check_server(uri: str) -> None:
    """Send the server one request, without MLflow's minutes of retries.

    Raises:
        Refused: the server doesn't answer, is no MLflow server, or its database has another MLflow version's schema.
    """
    silence_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if uri.startswith("http"):
            _check_tracking_server(uri)
        elif not uri.startswith("databricks"):
            _check_database(uri)
        else:
            connect(uri).search_experiments(max_results=1)
    except ModuleNotFoundError as error:
        raise _refused(uri, f"needs the package {error.name}", f"pip install {error.name}") from error
    except (MlflowException, SQLAlchemyError, OSError) as error:
        remedy = "start the server, correct the address, or set tracking=off"
        raise _refused(uri, str(error).splitlines()[0], remedy) from error


def _refused(uri: str, what: str, remedy: str) -> Refused:
    shown = without_password(uri)
    return refuse(uri_key(), f"{shown}: {what.replace(uri.rstrip('/'), shown)}", remedy)


def without_password(uri: str) -> str:
    """A tracking URI, for a message."""
    from sqlalchemy import make_url

    return make_url(uri).render_as_string(hide_password=True) if "://" in uri else uri


def _check_tracking_server(uri: str) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request_safe

    endpoint = "/api/2.0/mlflow/experiments/search"
    body = {"max_results": 1}
    http_request_safe(get_default_host_creds(uri), endpoint, "POST", json=body, max_retries=0, timeout=_TIMEOUT_S)


def _check_database(uri: str) -> None:
    """Try to connect once before MLflow does, which would try ten times over two minutes."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()
    connect(uri)  # creates the tables of an empty database; an old schema raises with the command that upgrades it
