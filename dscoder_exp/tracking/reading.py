"""Opening a tracking store to read its runs: it isn't created, and may be read-only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.schema.errors import refuse
from dscoder_exp.tracking.connect import connect, sqlite_path, uri_key
from dscoder_exp.tracking.sqlite import migrate_sqlite, read_only_reason
from dscoder_exp.tracking.store import open_store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FILE_STORE = "mlruns"  # MLflow's file store, up to MLflow 2


def open_to_read(uri: str) -> tuple[MlflowClient, str | None]:
    """A client of the store at `uri`, and why nothing can be written to it (None: it can).

    A database of an older MLflow that can be written is migrated.

    Raises:
        Refused: there is no such database, the server doesn't answer, or this MLflow can't read it.
    """
    if not uri.startswith("sqlite:"):
        open_store(uri)
        return connect(uri), None
    path = sqlite_path(uri)
    if not path.exists():
        raise refuse(uri_key(), f"{path}: there is no such file, so there are no runs", _remedy_of_missing(path))
    reason = read_only_reason(path)
    if reason is None:
        migrate_sqlite(path)
    return _connected(uri, path), reason


def _remedy_of_missing(path: Path) -> str:
    remedy = f"{uri_key()}=sqlite:///PATH/mlflow.db, or an MLflow server's address"
    if not (path.parent / FILE_STORE).is_dir():
        return remedy
    return f"{remedy}; {FILE_STORE}/ is of MLflow's old file store: `mlflow migrate-filestore --help`"


def _connected(uri: str, path: Path) -> MlflowClient:
    """The client; a read-only database can't be migrated."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = connect(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        what = f"{path}: can't be read: {str(error).splitlines()[0]}"
        raise refuse(uri_key(), what, "copy it to a writable directory, where it is migrated") from error
    return client
