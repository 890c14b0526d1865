"""Read the runs of an MLflow SQLite store without importing mlflow."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Recorded:
    """A run in mlflow.db."""

    id: str
    name: str
    status: str
    artifacts: Path
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, dict[int, float]]  # name -> step -> value

    def values(self, metric: str) -> list[float]:
        return [value for _, value in sorted(self.metrics[metric].items())]


def runs_in(directory: Path) -> list[Recorded]:
    """The runs in `directory`/mlflow.db, oldest first; a metric logged twice for one step fails an assertion."""
    with sqlite3.connect(directory / "mlflow.db") as store:
        query = store.execute
        runs = query("SELECT run_uuid, name, status, artifact_uri FROM runs ORDER BY start_time, rowid").fetchall()
        tags, params = (query(f"SELECT run_uuid, key, value FROM {table}").fetchall() for table in ("tags", "params"))
        metrics = query("SELECT run_uuid, key, step, value FROM metrics WHERE NOT is_nan").fetchall()
    found = {run: Recorded(run, name, status, Path(place), {}, {}, {}) for run, name, status, place in runs}
    for run, key, value in tags:
        found[run].tags[key] = value
    for run, key, value in params:
        found[run].params[key] = value
    for run, key, step, value in metrics:
        values = found[run].metrics.setdefault(key, {})
        assert step not in values, f"{found[run].name}: {key} was logged twice for step {step}"
        values[step] = value
    return list(found.values())
