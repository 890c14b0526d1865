"""Short training runs for the benchmarks, each in its own process."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _machine import report_of

from dscoder_exp.device.start import set_environment

WARM_UP = 2  # first steps that don't count: the first compiles, both allocate memory
TRAIN = str(Path(__file__).with_name("_config_train.py"))


@dataclass(frozen=True)
class Measured:
    sequences: int  # number of training sequences
    text: float  # fraction of their positions that isn't padding
    seconds: list[float]  # of each step
    peak: int  # bytes, peak resident memory of the process

    @property
    def step(self) -> float:
        """Seconds of the median step after WARM_UP."""
        return median(self.seconds[WARM_UP:])


def measure(directory: Path, *overrides: str) -> Measured:
    """Run the optimizer steps of task=train with these overrides; the processes write into `directory`."""
    set_environment()  # as the command line does for the processes it starts
    common = [*overrides, f"runtime.cache_dir={directory}/cache"]
    # In another process, so that the peak memory is that of training alone.
    prepare = [sys.executable, "-m", "dscoder_exp", "task=prepare", *common, f"hydra.sweep.dir={directory}/job"]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    return Measured(**report_of([sys.executable, TRAIN, *common, f"output_dir={directory}"]))
