"""Seconds, memory and size of task=compare on a store of many runs: compare_many.py [RUNS STEPS] [DIR]

Makes DIR/mlflow.db (DIR: a temporary directory; a store that is there is kept): RUNS (1,000) runs of a sweep, with
STEPS (1,000) steps of what task=train logs. It writes rows, since MLflow's client would take an hour.
"""

import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, product
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from dscoder_exp.app import config_directory
from dscoder_exp.schema.check import to_config
from dscoder_exp.tracking.describe import params_of
from dscoder_exp.tracking.store import open_store

AXES = {
    "seq_length": [512, 1024, 2048, 4096],
    "optim.lr": [5e-6, 1e-5, 2e-5, 5e-5, 1e-4],
    "train.global_batch_size": [8, 16, 32, 64, 128],
    "seed": list(range(10)),
}
START_MS = 1_790_000_000_000
EVAL_EVERY = 50


def main() -> None:
    runs, steps = (int(word) for word in [*sys.argv[1:3], *["1000", "1000"][len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(sys.argv[3] if len(sys.argv) > 3 else temporary).absolute()
        if not (room / "mlflow.db").exists():
            make_store(room / "mlflow.db", runs, steps)
        report = room / f"report-{os.getpid()}"
        command = ["-m", "dscoder_exp", "task=compare", f"compare.output={report}", f"hydra.run.dir={room}/hydra"]
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, *command], cwd=room)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        size = (report / "compare.html").stat().st_size if not status else math.nan
        cpu = usage.ru_utime + usage.ru_stime
        used = f"{seconds:.1f} s, {cpu:.1f} s of CPU time, {usage.ru_maxrss / 2**20:.2f} GiB"
        print(f"{used}, compare.html {size / 1e6:.1f} MB")


def make_store(path: Path, runs: int, steps: int) -> None:
    """A sweep over AXES in an MLflow database of the current version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    open_store(f"sqlite:///{path}")
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("config", ["model=tiny", f"train.max_steps={steps}"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        params = params_of(to_config(config))
    parent, cells = uuid.uuid4().hex, list(islice(product(*AXES.values()), runs))
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA synchronous=OFF")
        folder = str(path.parent / "mlartifacts" / "many")
        store.execute(
            "INSERT INTO experiments VALUES (1, 'many', ?, 'active', ?, ?, 'default')", [folder, START_MS, START_MS]
        )
        add_run(store, folder, parent, "many", {}, {"sweep": "true", "overrides": sweep_tag()})
        for number, cell in enumerate(cells):
            values = {key: str(value) for key, value in zip(AXES, cell, strict=True)}
            run, overrides = uuid.uuid4().hex, "\n".join(f"{key}={value}" for key, value in values.items())
            tags = {"mlflow.parentRunId": parent, "overrides": overrides, "flops_per_token": "2.4e6"}
            add_run(store, folder, run, overrides.replace("\n", ", "), params | values, tags)
            add_metrics(store, run, cell, steps, np.random.default_rng(number))
            store.commit()


def sweep_tag() -> str:
    return "\n".join(f"{key}={','.join(map(str, values))}" for key, values in AXES.items())


def add_run(
    store: sqlite3.Connection, folder: str, run: str, name: str, params: dict[str, str], tags: dict[str, str]
) -> None:
    row = [run, name, "LOCAL", "", "", "bench", "FINISHED", START_MS, START_MS + 3_600_000, "", "active"]
    row += [f"{folder}/{run}/artifacts", 1, None]
    store.execute(f"INSERT INTO runs VALUES ({','.join('?' * len(row))})", row)
    store.executemany("INSERT INTO params VALUES (?, ?, ?)", ((key, value, run) for key, value in params.items()))
    named = tags | {"mlflow.runName": name}
    store.executemany("INSERT INTO tags VALUES (?, ?, ?)", ((key, value, run) for key, value in named.items()))


def add_metrics(
    store: sqlite3.Connection, run: str, cell: tuple[float, ...], steps: int, random: np.random.Generator
) -> None:
    """Loss curves that depend on the cell, with noise; the speed depends on the sequence's length."""
    length, lr, batch, _ = cell
    step = np.arange(1, steps + 1)
    floor = 1.2 + 0.1 * abs(math.log10(lr / 2e-5)) + 2 / math.sqrt(length)
    loss = floor + 1.5 * np.exp(-step / (200 * math.sqrt(8 / batch) + 50)) + random.normal(0, 0.05, steps)
    rate = 12_000 * (1 - length / 20_000) * (1 + random.normal(0, 0.02, steps))
    per_step = {
        "train/loss": loss,
        "train/grad_norm": 0.5 + np.exp(-step / 100) + random.exponential(0.05, steps),
        "train/lr": lr * np.minimum(1, step / 30),
        "perf/step_time_s": batch * length / rate,
        "perf/tokens_per_s": rate,
        "perf/tokens_per_s_per_device": rate,
        "perf/useful_tokens_per_s": 0.98 * rate,
        "perf/loss_tokens_per_s": 0.6 * rate,
    }
    evaluated = [0, *step[EVAL_EVERY - 1 :: EVAL_EVERY].tolist()]
    eval_loss = {at: float(loss[max(at - 1, 0)] + 0.05) for at in evaluated}

    def rows() -> Iterator[tuple[str, float, int, str, int, int]]:
        for index, at in enumerate(step.tolist()):
            for name, values in per_step.items():
                yield name, float(values[index]), START_MS + 1000 * at, run, at, 0
            if at in eval_loss:
                yield "eval/loss", eval_loss[at], START_MS + 1000 * at + 500, run, at, 0

    store.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", rows())
    store.execute("INSERT INTO metrics VALUES ('eval/loss', ?, ?, ?, 0, 0)", [eval_loss[0], START_MS, run])
    last = {name: float(values[-1]) for name, values in per_step.items()} | {"eval/loss": eval_loss[evaluated[-1]]}
    store.executemany(
        "INSERT INTO latest_metrics VALUES (?, ?, ?, ?, 0, ?)",
        ((name, value, START_MS + 1000 * steps, steps, run) for name, value in last.items()),
    )


if __name__ == "__main__":
    main()
