"""Opening a sqlite tracking database: created atomically, backed up before a migration, one process at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.storage.atomic_file import atomic_file
from dscoder_exp.tracking.connect import silence_mlflow, uri_key

_BUSY_SECONDS = 5.0  # time to wait for another process's lock on the database


def open_sqlite(path: Path) -> None:
    """Create the MLflow database `path`, or migrate an older one, and create `mlartifacts/` beside it.

    Raises:
        Refused: `path` can't be written, is no MLflow database, or is that of a newer MLflow.
    """
    try:
        if _exists(path):
            _probe(path)
        (path.parent / "mlartifacts").mkdir(parents=True, exist_ok=True)
        with _directory_lock(path.parent):
            if _exists(path):
                _migrate(path)
            else:
                _create(path)
    except OSError as error:
        place = "" if error.filename in (None, str(path)) else f" ({error.filename})"
        raise _refused(path, f"can't be opened for writing: {error.strerror}{place}") from error
    except sqlite3.Error as error:
        raise _refused(path, f"can't be opened for writing: {error}") from error


def migrate_sqlite(path: Path) -> None:
    """Migrate the database of an older MLflow, and create nothing else.

    Raises:
        Refused: it is that of a newer MLflow.
    """
    with _directory_lock(path.parent):
        _migrate(path)


def read_only_reason(path: Path) -> str | None:
    """Why the existing MLflow database `path` can't be written; None: it can.

    Raises:
        Refused: it is no MLflow database.
    """
    try:
        _probe(path)
    except sqlite3.OperationalError as error:
        return str(error)
    except sqlite3.Error as error:
        raise _refused(path, str(error)) from error
    return None


def _exists(path: Path) -> bool:
    if path.is_dir():
        raise IsADirectoryError(None, "it is a directory", str(path))
    return path.exists() and path.stat().st_size > 0


def _refused(path: Path, what: str, remedy: str = "") -> Refused:
    key = uri_key()
    return refuse(key, f"{path}: {what}", remedy or f"name another file: {key}=sqlite:///PATH/mlflow.db")


@contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Let one process at a time in: MLflow's migrations fail if two processes open a new database at once."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released with the descriptor, so also when the process ends
        yield
    finally:
        os.close(descriptor)


def _probe(path: Path) -> None:
    """Refuse a foreign, read-only or locked file before MLflow is imported, which would retry for minutes."""
    with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not tables >= {"alembic_version", "experiments"}:
            raise _refused(path, "is a database, but not an MLflow database")
        connection.execute("BEGIN IMMEDIATE")
        # This creates a journal file, so it fails, too, if the directory isn't writable.
        connection.execute("CREATE TABLE dscoder_exp_probe (x)")
        connection.execute("ROLLBACK")


def _create(path: Path) -> None:
    """Create the database under a temporary name: interrupting MLflow's migrations, which take 1 s, would break it."""
    with atomic_file(path) as partial:
        partial.touch()  # raises OSError at once if it can't be written
        silence_mlflow()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(f"sqlite:///{partial}", str(path.parent / "mlartifacts"))._dispose_engine()


def _migrate(path: Path) -> None:
    """Upgrade an older MLflow's schema, after a backup beside the database."""
    silence_mlflow()
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
        _back_up(path, path.with_name(f"{path.name}.before-{head}"))
        utils._upgrade_db(engine)
    finally:
        engine.dispose()


def _back_up(path: Path, copy: Path) -> None:
    """Copy a database, unless the copy exists: then a migration was interrupted after it, and `path` may be broken."""
    if copy.exists():
        return
    with atomic_file(copy) as partial, closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(partial)) as new:
        old.backup(new)  # consistent even while another process writes, unlike a copy of the file
