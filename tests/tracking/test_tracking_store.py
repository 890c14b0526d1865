"""Opening a tracking store: it is created, reused, migrated or refused."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from tracking_support import YAML, some_config

from dscoder_exp.schema.errors import Refused
from dscoder_exp.tracking.connect import connect
from dscoder_exp.tracking.store import create_run, create_sweep, open_store


def refusal(uri: str | Path) -> tuple[str, str, str]:
    with pytest.raises(Refused) as caught:
        open_store(uri if isinstance(uri, str) else f"sqlite:///{uri}")
    (problem,) = caught.value.problems
    return problem.where, problem.what, problem.remedy


def names_in(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


OPEN_AND_LOG = """
import logging, sys
from dscoder_exp.tracking.store import create_sweep, open_store
logging.basicConfig(level=logging.INFO)  # as Hydra does
open_store(sys.argv[1])
create_sweep(sys.argv[1], "demo", sys.argv[2], [])
"""


@pytest.mark.slow
def test_several_processes_create_one_database_without_output(tmp_path: Path) -> None:
    place = tmp_path / "a b#é='1'"  # created by open_store; these characters are special in URIs
    uri = f"sqlite:///{place}/mlflow.db"
    (tmp_path / "mlruns").mkdir()  # MLflow would use this by default
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_LOG, uri, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for name in "ab"
    ]
    try:
        printed = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed == ["", ""]
    client = connect(uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {"a", "b"}
    assert names_in(place) == {"mlflow.db", "mlartifacts"}
    assert names_in(tmp_path) == {place.name, "mlruns"}
    assert names_in(tmp_path / "mlruns") == set()


def test_an_existing_database_is_left_as_it_is(database: Path, uri: str) -> None:
    create_sweep(uri, "demo", "before", [])
    content = database.read_bytes()
    open_store(uri)
    assert database.read_bytes() == content
    assert names_in(database.parent) == {"mlflow.db", "mlartifacts"}


def test_a_database_is_created_after_an_interrupted_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    (tmp_path / ".mlflow.db.partial").write_text("left by an interrupted start")
    with monkeypatch.context() as patched:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_store(f"sqlite:///{path}")
    assert names_in(tmp_path) == {"mlflow.db", "mlartifacts"}
    assert path.stat().st_size == 0
    open_store(f"sqlite:///{path}")
    assert connect(f"sqlite:///{path}").search_experiments()
    assert names_in(tmp_path) == {"mlflow.db", "mlartifacts"}


OLD_SCHEMA = "7ac759974ad8"  # MLflow 1.x


def test_an_older_schema_is_migrated_after_a_backup(tmp_path: Path) -> None:
    from alembic import command
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    engine = utils.create_sqlalchemy_engine(uri)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config = utils._get_alembic_config(uri)
        config.attributes["connection"] = connection
        command.upgrade(config, OLD_SCHEMA)
    engine.dispose()
    with closing(sqlite3.connect(path)) as old:
        old.execute("INSERT INTO experiments VALUES (7, 'long ago', 'file:///x', 'active')")
        old.commit()

    open_store(uri)
    experiment = connect(uri).get_experiment_by_name("long ago")
    assert experiment is not None
    assert experiment.experiment_id == "7"
    (copy,) = tmp_path.glob("mlflow.db.*")
    with closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("SELECT version_num FROM alembic_version").fetchall() == [(OLD_SCHEMA,)]
        assert kept.execute("SELECT name FROM experiments").fetchall() == [("long ago",)]
    assert names_in(tmp_path) == {"mlflow.db", copy.name, "mlartifacts"}


def test_a_newer_schema_is_refused(database: Path, uri: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")
        connection.commit()
    content = database.read_bytes()
    assert refusal(uri) == (
        "tracking.uri",
        f"{database}: has schema fedcba987654 of a newer MLflow",
        "upgrade mlflow, or name another file",
    )
    assert database.read_bytes() == content


@pytest.mark.parametrize("kind", ["another application's", "no database", "directory"])
def test_what_is_no_mlflow_database_is_refused_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "notes.db"
    if kind == "directory":
        path.mkdir()
        what = "can't be opened for writing: it is a directory"
    elif kind == "no database":
        path.write_text("notes " * 500)
        what = "can't be opened for writing: file is not a database"
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE notes (x)")
        what = "is a database, but not an MLflow database"
    content = path.is_file() and path.read_bytes()
    remedy = "name another file: {}=sqlite:///PATH/mlflow.db"
    assert refusal(path) == ("tracking.uri", f"{path}: {what}", remedy.format("tracking.uri"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    assert refusal(path)[::2] == ("MLFLOW_TRACKING_URI", remedy.format("MLFLOW_TRACKING_URI"))
    assert names_in(tmp_path) == {"notes.db"}
    assert (path.is_file() and path.read_bytes()) == content


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_that_cannot_be_written(
    public: Path, empty_store: Path, unwritable: Callable[[Path], None], exists: bool
) -> None:
    path = public / "mlflow.db"
    (public / "mlartifacts").mkdir()
    if exists:
        path.write_bytes(empty_store.read_bytes())
    before = names_in(public)
    unwritable(public)
    reason = "attempt to write a readonly database" if exists else f"Permission denied ({public}/.mlflow.db.partial)"
    assert refusal(path)[1] == f"{path}: can't be opened for writing: {reason}"
    below = public / "below" / "mlflow.db"
    assert refusal(below)[1] == f"{below}: can't be opened for writing: Permission denied ({public}/below)"
    assert names_in(public) == before


def test_a_path_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "mlflow.db"
    assert refusal(path)[1].startswith(f"{path}: can't be opened for writing: Not a directory")


def test_a_database_locked_by_another_process(database: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dscoder_exp.tracking.sqlite._BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert refusal(uri)[1] == f"{database}: can't be opened for writing: database is locked"
    open_store(uri)


class Server(BaseHTTPRequestHandler):
    """Answers like a tracking server under /good, and like any other server elsewhere."""

    def do_POST(self) -> None:
        good = self.path == "/good/api/2.0/mlflow/experiments/search"
        content = b'{"experiments": []}' if good else b"<html>not here</html>"
        self.send_response(200 if good else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_tracking_server() -> None:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        address = f"http://user:secret@127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            open_store(f"{address}/good")
            where, what, remedy = refusal(f"{address}/other")
        finally:
            server.shutdown()
            thread.join()
    assert where == "tracking.uri"
    assert "404" in what
    assert "secret" not in what
    assert remedy == "start the server, correct the address, or set tracking=off"
    where, what, _ = refusal(f"{address}/good")  # no longer listening
    assert "refused" in what
    assert "secret" not in what


def test_a_database_server_without_its_driver() -> None:
    where, what, remedy = refusal("postgresql+asyncpg://user:secret@127.0.0.1/runs")
    assert (where, what) == ("tracking.uri", "postgresql+asyncpg://user:***@127.0.0.1/runs: needs the package asyncpg")
    assert remedy == "pip install asyncpg"


def test_a_deleted_experiment_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create_sweep(uri, "demo", "before", [])
    client = connect(uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(Refused) as caught:
        create_run(uri, some_config(uri), YAML, [], None)
    (problem,) = caught.value.problems
    assert (problem.where, problem.what) == ("tracking.experiment", "the experiment 'demo' was deleted in MLflow")
    assert f"mlflow experiments restore -x {experiment.experiment_id}" in problem.remedy
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    create_run(uri, some_config(uri), YAML, [], None)
    assert connect(uri).get_experiment_by_name("other")
