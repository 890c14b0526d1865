"""Fixtures: a store with few runs, and task=compare in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison_support import Compare, Store


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compare:
    """task=compare in this process, in an empty directory."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Compare(tmp_path, monkeypatch, capsys)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    """The store that task=compare reads by default."""
    return Store(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")


@pytest.fixture
def sweep(store: Store) -> Callable[..., tuple[str, list[str]]]:
    """sweep({key: [value, …]}) -> the parent's id, and the jobs' ids: a run for each combination."""

    def make(axes: dict[str, list[Any]], **options: Any) -> tuple[str, list[str]]:
        parent = store.sweep(*(f"{key}={','.join(map(str, values))}" for key, values in axes.items()))
        cells: list[dict[str, Any]] = [{}]
        for key, values in axes.items():
            cells = [{**cell, key: value} for cell in cells for value in values]
        return parent, [store.run(cell, parent=parent, **options) for cell in cells]

    return make
