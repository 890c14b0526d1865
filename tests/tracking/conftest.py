"""Fixtures: MLflow databases. MLflow takes a second to create one, so each test copies one that was created once."""

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
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a directory of its own, without MLflow variables in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """An empty MLflow database, one for each test."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return connect(uri)


@pytest.fixture
def run_id(uri: str) -> str:
    """A job's run as created by the parent for the worker."""
    return create_run(uri, some_config(uri), YAML, [], None)


@pytest.fixture
def unwritable() -> Iterator[Callable[[Path], None]]:
    """unwritable(directory): make a directory and its files read-only until the end of the test."""
    changed: list[Path] = []

    def protect(directory: Path) -> None:
        changed.append(directory)
        for file in directory.iterdir():
            file.chmod(0o444)
        directory.chmod(0o555)
        if os.geteuid() == 0:  # root may write whatever the mode
            os.seteuid(NOBODY)

    user = os.geteuid()
    yield protect
    if os.geteuid() != user:
        os.seteuid(user)
    for directory in changed:
        directory.chmod(0o755)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory accessible to every user; pytest's temporary directories aren't."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
