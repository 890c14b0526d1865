"""A real MLflow server that is killed and started again while a job logs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tracking_support import YAML, logged, some_config

from dscoder_exp.tracking import sender as module
from dscoder_exp.tracking.connect import connect
from dscoder_exp.tracking.store import create_run

pytestmark = pytest.mark.proof


class Server:
    """`mlflow server` on a port of this machine."""

    def __init__(self, database: Path, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        place = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(database.parent / "a")]
        self._command = [sys.executable, "-m", "mlflow", "server", *place, "--port", str(port), "--workers", "1"]
        self._environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # starts sooner
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            self._command, start_new_session=True, env=self._environment, stdout=quiet, stderr=quiet
        )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


@pytest.fixture
def server(database: Path, free_port: Callable[[], int]) -> Iterator[Server]:
    server = Server(database, free_port())
    server.start()
    yield server
    server.kill()


def test_nothing_is_lost_while_the_server_is_away(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.5)
    run_id = create_run(server.address, some_config(server.address), YAML, [], None)
    (tmp_path / "data.json").write_text("{}")
    with logged(server.address, run_id) as run:
        for step in range(1, 31):
            if step == 11:
                server.kill()
            if step == 21:
                run.artifact(tmp_path / "data.json")
                while not caplog.records:
                    time.sleep(0.05)
                server.start()
            run.metrics({"train/loss": step, "train/lr": 1.0}, step)
            time.sleep(0.05)
    client = connect(server.address)
    found = client.get_metric_history(run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in found] == [(step, float(step)) for step in range(1, 31)]
    assert {entry.path for entry in client.list_artifacts(run_id)} == {"config.yaml", "data.json"}
    told = [record for record in caplog.records if record.name == module.__name__]
    (warning,) = [record.message for record in told if record.levelno == logging.WARNING]
    assert warning.startswith("MLflow did not accept ")
    assert ", to be retried: " in warning
