"""Short training runs, each in a process of its own, as the benches ask for them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _machine import report_of

from dscoder_exp.device.start import set_environment

WARM_UP = 2  # steps: the first compiles, both touch memory that is new
TRAIN = str(Path(__file__).with_name("_config_train.py"))


@dataclass(frozen=True)
class Measured:
    sequences: int  # that the data make
    text: float  # the part of their positions that isn't padding
    seconds: list[float]  # of each step
    peak: int  # the most bytes that the process held

    @property
    def step(self) -> float:
        """Seconds of the median step, warmed up."""
        return median(self.seconds[WARM_UP:])


def measure(directory: Path, *overrides: str) -> Measured:
    """The steps of task=train with these overrides; see _config_train.py.

    Args:
        directory: takes what the processes write.
    """
    set_environment()  # as the command line does for the processes it starts
    common = [*overrides, f"runtime.cache_dir={directory}/cache"]
    # The data are prepared by another process: what that takes of memory isn't training's.
    prepare = [sys.executable, "-m", "dscoder_exp", "task=prepare", *common, f"hydra.sweep.dir={directory}/job"]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    return Measured(**report_of([sys.executable, TRAIN, *common, f"output_dir={directory}"]))
