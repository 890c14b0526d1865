"""Databases for the tests of tracking. MLflow takes a second to create one, so it is created once and copied."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tracking_support import YAML, some_config

from dscoder_exp.tracking.connect import connect
from dscoder_exp.tracking.store import create_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NOBODY = 65534


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts in a directory of its own, with no store named by the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """An empty MLflow database of the test's own."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return connect(uri)


@pytest.fixture
def run_id(uri: str) -> str:
    """A job's run, as the parent leaves it to the worker."""
    return create_run(uri, some_config(uri), YAML, [], None)


@pytest.fixture
def unwritable() -> Iterator[Callable[[Path], None]]:
    """unwritable(directory): from then on, to the end of the test, neither it nor its files can be written."""
    changed: list[Path] = []

    def protect(directory: Path) -> None:
        changed.append(directory)
        for file in directory.iterdir():
            file.chmod(0o444)
        directory.chmod(0o555)
        if os.geteuid() == 0:  # modes don't bind root
            os.seteuid(NOBODY)

    user = os.geteuid()
    yield protect
    if os.geteuid() != user:
        os.seteuid(user)
    for directory in changed:
        directory.chmod(0o755)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
