"""Opening a sqlite tracking database: created whole or not at all, migrated with a copy kept, one process at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.tracking.connect import quiet, uri_key

_BUSY_SECONDS = 5.0  # how long another process may hold the database before we give up


def open_sqlite(path: Path) -> None:
    """Make `path` an MLflow database of this MLflow's schema, and `mlartifacts/` beside it.

    Raises:
        Refused: it can't be written, or it is something else than an MLflow database, or a newer MLflow's.
    """
    try:
        if _exists(path):
            _probe(path)
        (path.parent / "mlartifacts").mkdir(parents=True, exist_ok=True)
        with _one_process(path.parent):
            if _exists(path):
                _migrate(path)
            else:
                _create(path)
    except OSError as error:
        place = "" if error.filename in (None, str(path)) else f" ({error.filename})"
        raise _refused(path, f"can't be opened for writing: {error.strerror}{place}") from error
    except sqlite3.Error as error:
        raise _refused(path, f"can't be opened for writing: {error}") from error


def _exists(path: Path) -> bool:
    if path.is_dir():
        raise IsADirectoryError(None, "it is a directory", str(path))
    return path.exists() and path.stat().st_size > 0


def _refused(path: Path, what: str, remedy: str = "") -> Refused:
    key = uri_key()
    return refuse(key, f"{path}: {what}", remedy or f"name another file: {key}=sqlite:///PATH/mlflow.db")


@contextmanager
def _one_process(directory: Path) -> Iterator[None]:
    """MLflow's own migrations destroy each other when two processes open a new database at once."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # goes with the descriptor, so also with the process
        yield
    finally:
        os.close(descriptor)


def _probe(path: Path) -> None:
    """Tell a foreign, read-only or locked file at once, before MLflow's import; MLflow would retry for minutes."""
    with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not tables >= {"alembic_version", "experiments"}:
            raise _refused(path, "is a database, but not one of MLflow")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE dscoder_exp_probe (x)")  # a journal must fit into the directory, too
        connection.execute("ROLLBACK")


def _create(path: Path) -> None:
    """MLflow's migrations take about 1 s; an interrupted start must not leave a half-made database."""
    draft = path.with_name(f".{path.name}.partial")
    draft.unlink(missing_ok=True)  # of a start that was killed
    draft.touch()  # says at once if it can't be written
    quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        SqlAlchemyStore(f"sqlite:///{draft}", str(path.parent / "mlartifacts"))._dispose_engine()
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _migrate(path: Path) -> None:
    """Bring an older MLflow's schema up to date; a copy of the old one stays beside it."""
    quiet()
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    uri = f"sqlite:///{path}"
    engine = utils.create_sqlalchemy_engine(uri)
    try:
        version = utils._get_schema_version(engine)
        scripts = ScriptDirectory.from_config(utils._get_alembic_config(uri))
        head = scripts.get_current_head()
        if version == head:
            return
        if version not in {script.revision for script in scripts.walk_revisions()}:
            raise _refused(path, f"has schema {version} of a newer MLflow", "upgrade mlflow, or name another file")
        _keep_copy(path, path.with_name(f"{path.name}.before-{head}"))
        utils._upgrade_db(engine)
    finally:
        engine.dispose()


def _keep_copy(path: Path, copy: Path) -> None:
    """Copy a database; one that is there already was made before a migration that didn't end, and is the true one."""
    if copy.exists():
        return
    draft = copy.with_name(f".{copy.name}.partial")
    draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(draft)) as new:
        old.backup(new)  # unlike a copied file, whole even while another process writes
    os.replace(draft, copy)
