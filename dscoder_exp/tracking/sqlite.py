"""Opening a sqlite tracking database: created whole or not at all, migrated with a copy kept, one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.tracking.connect import quiet

_BUSY_SECONDS = 5.0  # how long another process may hold the database before we give up


def open_sqlite(path: Path) -> None:
    """Make `path` an MLflow database of this MLflow's schema, and `mlartifacts/` beside it.

    Raises:
        Refused: it can't be written, or it is something else than an MLflow database, or a newer MLflow's.
    """
    try:
        (path.parent / "mlartifacts").mkdir(parents=True, exist_ok=True)
        with _one_process(path):
            if path.is_file() and path.stat().st_size > 0:
                _probe(path)
                _migrate(path)
            else:
                _create(path)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _refused(path, f"can't be opened for writing: {reason}") from error


def _refused(path: Path, what: str, remedy: str = "") -> Refused:
    return refuse(
        "tracking.uri", f"{path}: {what}", remedy or "name another file: tracking.uri=sqlite:///PATH/mlflow.db"
    )


@contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """MLflow's own migrations destroy each other when two processes open a new database at once."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:  # the lock goes with the file's closing
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create(path: Path) -> None:
    """MLflow's migrations take about 1 s; an interrupted start must not leave a half-made database."""
    if path.is_dir():
        raise IsADirectoryError(None, "it is a directory")
    quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        SqlAlchemyStore(f"sqlite:///{draft}", str(path.parent / "mlartifacts"))._dispose_engine()
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _probe(path: Path) -> None:
    """Take the write lock once: tells a read-only, foreign or locked file at once. MLflow would retry for minutes."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


def _migrate(path: Path) -> None:
    """Bring an older MLflow's schema up to date; the old file stays beside it."""
    quiet()
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    uri = f"sqlite:///{path}"
    engine = utils.create_sqlalchemy_engine(uri)
    try:
        version = utils._get_schema_version(engine)
        scripts = ScriptDirectory.from_config(utils._get_alembic_config(uri))
        if version == scripts.get_current_head():
            return
        if version is None:
            raise _refused(path, "is a database, but not one of MLflow")
        if version not in {script.revision for script in scripts.walk_revisions()}:
            raise _refused(path, f"has schema {version} of a newer MLflow", "upgrade mlflow, or name another file")
        shutil.copyfile(path, path.with_name(f"{path.name}.before-{scripts.get_current_head()}"))
        utils._upgrade_db(engine)
    finally:
        engine.dispose()
