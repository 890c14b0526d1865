"""Runs as task=train and task=evaluate leave them in a store, made without training anything, and their comparison."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dscoder_exp.app import main
from dscoder_exp.tracking.connect import connect, log_params

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SHARED = {"optim.lr": "1e-05", "seed": "0", "seq_length": "128", "train.global_batch_size": "4", "train.prompts": "[]"}
STARTED = 1_790_000_000_000  # milliseconds since 1970; each run starts a minute after the one before
MINUTE = 60_000
FLOPS = 1000.0  # per token


@dataclass
class Store:
    """Runs in the experiment `demo` of a store; artifacts go beside the database."""

    uri: str
    client: MlflowClient = field(init=False)
    experiment: str = field(init=False)
    created: int = 0

    def __post_init__(self) -> None:
        self.client = connect(self.uri)
        beside = str(Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts")
        self.experiment = self.client.create_experiment("demo", beside if self.uri.startswith("sqlite") else None)

    def sweep(self, *overrides: str, status: str = "FINISHED") -> str:
        """A sweep's parent run; overrides: as typed, `seq_length=128,256`."""
        return self._create("demo", {"sweep": "true", "overrides": "\n".join(overrides)}, status)

    def run(
        self,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Mapping[int, float]] | None = None,
        *,
        parent: str | None = None,
        name: str = "train",
        status: str = "FINISHED",
        error: str = "",
        tags: Mapping[str, str] | None = None,
        artifacts: Mapping[str, str] | None = None,
    ) -> str:
        """A run; its default metrics are a training's of 30 steps, whose loss depends on the params.

        Args:
            params: those that differ from SHARED; they are the job's overrides.
            metrics: name -> step -> value.
        """
        from mlflow.entities import Metric

        given = {key: str(value) for key, value in (params or {}).items()}
        own = {"overrides": "\n".join(f"{key}={value}" for key, value in given.items()), "flops_per_token": str(FLOPS)}
        own |= {"mlflow.parentRunId": parent} if parent else {}
        own |= ({"error": error} if error else {}) | dict(tags or {})
        run_id = self._create(name, own, status)
        log_params(self.client, run_id, SHARED | given)
        started = STARTED + self.created * MINUTE
        found = [
            Metric(metric, value, started + 1000 * step, step)
            for metric, values in (training(given) if metrics is None else metrics).items()
            for step, value in values.items()
        ]
        self.client.log_batch(run_id, metrics=found)
        for path, text in (artifacts or {}).items():
            self.client.log_text(run_id, text, path)
        return run_id

    def _create(self, name: str, tags: Mapping[str, str], status: str) -> str:
        self.created += 1
        started = STARTED + self.created * MINUTE
        run_id = self.client.create_run(self.experiment, started, dict(tags), name).info.run_id
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, started + MINUTE)
        return run_id


def training(params: Mapping[str, str], steps: int = 30) -> dict[str, dict[int, float]]:
    """Metrics of a training run: the loss is lower with longer sequences, and a little higher with a higher seed."""
    length, seed = int(params.get("seq_length", 128)), int(params.get("seed", 0))
    first = 3 - length / 1000 + seed / 100
    every = range(1, steps + 1)
    return {
        "train/loss": {step: first / (1 + step / 10) for step in every},
        "eval/loss": {step: (first + 0.1) / (1 + step / 10) for step in [*range(0, steps + 1, 10)]},
        "train/grad_norm": {step: 1 + 1 / step for step in every},
        "perf/tokens_per_s": {step: 1.0 if step == 1 else 10.0 * length for step in every},
        "perf/useful_tokens_per_s": {step: 9.0 * length for step in every},
        "perf/memory_gb": {step: 2 + step / 100 for step in every},
    }


def answer_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """predictions/answers.json, as task=predict logs it."""
    columns = list(rows[0])
    return json.dumps({"columns": columns, "data": [[row[column] for column in columns] for row in rows]})


@dataclass
class Report:
    """What task=compare wrote and printed."""

    directory: Path
    out: str
    err: str

    @property
    def page(self) -> str:
        return (self.directory / "compare.html").read_text(encoding="utf-8")

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script draws."""
        found = re.search(r'<script id="data" type="application/json">(.*?)</script>', self.page, re.DOTALL)
        assert found
        return json.loads(found[1])


@dataclass
class Compare:
    """compare(*overrides) -> the report; compare.refused(*overrides) -> the message."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *overrides: str, output: str = "report") -> Report:
        code, out, err = self._run(*overrides, f"compare.output={output}")
        assert code == 0, err
        return Report(self.directory / output, out, err)

    def refused(self, *overrides: str) -> str:
        """The message; nothing may have been written."""
        before = sorted(self.directory.rglob("*"))
        code, _, err = self._run(*overrides)
        assert code == 2, err
        assert sorted(self.directory.rglob("*")) == before
        return err

    def refused_at_work(self, *overrides: str) -> str:
        """The message of what is seen only once the runs are read."""
        code, _, err = self._run(*overrides, "compare.output=report")
        assert code == 2, err
        return err

    def _run(self, *overrides: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["dscoder_exp", "task=compare", *overrides])
        code = main()
        out, err = self.capsys.readouterr()
        return code, out, err
