"""What runs logged is read as MLflow's client reads it: from a database, and from a server."""

import math
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from comparison_support import STARTED, Store

from dscoder_exp.comparison.histories import read_histories, thinned_by_server

METRICS = ("train/loss", "eval/loss", "perf/mfu")


@pytest.fixture
def server(store: Store, free_port: Callable[[], int]) -> Iterator[str]:
    """The address of an MLflow server on the store."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = ["server", "--backend-store-uri", store.uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "mlflow", *command], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def logged(store: Store) -> list[str]:
    """Runs of unlike metrics: one with a step that was logged again, and values that are no numbers."""
    from mlflow.entities import Metric

    first = store.run({"seed": 0})
    second = store.run({"seed": 1}, {"train/loss": {2: math.nan, 3: math.inf, 4: -math.inf, 5: 1.0}})
    store.client.log_batch(second, metrics=[Metric("train/loss", 0.5, STARTED + 10**9, 5)])
    return [second, first, store.run({"seed": 2}, {})]


def assert_right(store: Store, uri: str) -> None:
    runs = logged(store)
    found = dict(read_histories(uri, store.client, runs, METRICS))
    assert list(found) == runs
    assert found[runs[2]] == {}
    history = found[runs[0]]["train/loss"]
    assert history.steps.tolist() == [2, 3, 4, 5]
    np.testing.assert_array_equal(history.values, [math.nan, math.inf, -math.inf, 0.5])
    assert history.times[-1] == STARTED / 1000 + 10**6
    for metric in ("train/loss", "eval/loss"):
        points = sorted(store.client.get_metric_history(runs[1], metric), key=lambda point: point.step)
        history = found[runs[1]][metric]
        assert history.steps.tolist() == [point.step for point in points]
        assert history.values.tolist() == [point.value for point in points]
        assert history.times.tolist() == [point.timestamp / 1000 for point in points]
    assert set(found[runs[1]]) == {"train/loss", "eval/loss"}


def test_from_a_database(store: Store) -> None:
    assert_right(store, store.uri)


@pytest.mark.slow
def test_from_a_server(store: Store, server: str) -> None:
    assert_right(store, server)


def test_through_mlflows_client_where_nothing_else_answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_right(store, "databricks")


def test_a_server_thins_out_what_is_longer_than_its_answer() -> None:
    assert not thinned_by_server(2, 2499)
    assert thinned_by_server(2, 2500)
    assert thinned_by_server(1000, 2500)
