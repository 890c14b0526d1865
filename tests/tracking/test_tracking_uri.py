"""Resolving the tracking URI from the configuration and the environment."""

import subprocess
import sys
from pathlib import Path

import pytest
from tracking_support import tracking

from dscoder_exp.schema.errors import Refused
from dscoder_exp.tracking.store import resolve_uri, sqlite_path


def refusal(value: str) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        resolve_uri(tracking(value))
    (problem,) = caught.value.problems
    assert problem.remedy
    return problem.where, problem.what


@pytest.mark.parametrize(
    "value",
    ["sqlite:///runs/x.db", "sqlite+pysqlite:///runs/x.db", "runs/x.db", "./runs/x.db", " runs/x.db "],
)
def test_a_relative_file_becomes_absolute(tmp_path: Path, value: str) -> None:
    assert resolve_uri(tracking(value)) == f"sqlite:///{tmp_path}/runs/x.db"


def test_absolute_paths_and_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("sqlite:////data/x.db", "file:///data/x.db", "/data/x.db"):
        assert resolve_uri(tracking(value)) == "sqlite:////data/x.db"
    assert resolve_uri(tracking("sqlite:///~/x.db")) == f"sqlite:///{tmp_path}/home/x.db"
    assert sqlite_path("sqlite:////data/x.db") == Path("/data/x.db")


@pytest.mark.parametrize(
    "value",
    [
        "http://localhost:5000",
        "https://a.b/c",
        "databricks",
        "databricks://p",
        "postgresql+psycopg2://u@h/d",
        "mysql://h/d",
    ],
)
def test_servers_stay_as_they_are(value: str) -> None:
    assert resolve_uri(tracking(value)) == value


@pytest.mark.parametrize("value", ["mlruns", "./mlruns/", "file:///data/mlruns", ""])
def test_a_directory_is_refused(value: str) -> None:
    where, what = refusal(value)
    assert where == "tracking.uri"
    assert "names a directory, and MLflow 3 no longer writes to its file store" in what


def test_other_refusals() -> None:
    for value in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        assert "in-memory" in refusal(value)[1]
    assert "unknown scheme" in refusal("htp://localhost")[1]
    for value in ("sqlite:///x.db?timeout=9", "sqlite:///a%20b.db"):
        assert "a path can't contain ? or %" in refusal(value)[1]


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert resolve_uri(tracking("sqlite:///mine.db")) == f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    assert resolve_uri(tracking("sqlite:///mine.db")) == f"sqlite:///{tmp_path}/mine.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    assert refusal("sqlite:///mine.db")[0] == "MLFLOW_TRACKING_URI"


def test_an_existing_mlruns_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    assert resolve_uri(tracking("sqlite:///mlflow.db")) == f"sqlite:///{tmp_path}/mlflow.db"


def test_mlflow_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from dscoder_exp.schema.config import TrackingConfig
        from dscoder_exp.schema.errors import Refused
        from dscoder_exp.tracking.run import open_run
        from dscoder_exp.tracking.store import open_store, resolve_uri
        config = TrackingConfig(False, "sqlite:///mlflow.db", "demo", None, None)
        uri = resolve_uri(config)
        with open_run(config, "out", 0) as run:
            run.metrics({"train/loss": 1.0}, 1)
        config = TrackingConfig(True, uri, "demo", "0a", None)
        with open_run(config, "out", 0) as run:
            run.params({"a": 1})
            run.artifact(Path(sys.executable))
        Path("mlflow.db").write_text("not a database at all")
        try:
            open_store(uri)
        except Refused as refused:
            print(refused)
        print({"mlflow", "mindspore", "sqlalchemy"} & {*sys.modules})
    """
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == (
        f"dscoder_exp: refused\n  - tracking.uri: {tmp_path}/mlflow.db: can't be opened for writing: file is not a "
        "database\n      -> name another file: tracking.uri=sqlite:///PATH/mlflow.db\nset()\n"
    )
