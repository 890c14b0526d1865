"""Our side of train_vs_torch.py: DIRECTORY."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from _machine import peak_memory

from dscoder_exp import load
from dscoder_exp.data.sequences import Batch
from dscoder_exp.model.llama import NOT_COUNTED
from dscoder_exp.parallel.topology import Topology
from dscoder_exp.schema.config import OptimConfig
from dscoder_exp.training.step import Step


def main() -> None:
    directory = Path(sys.argv[1])
    numbers = json.loads((directory / "optim.json").read_text())
    # PyTorch's AdamW decays whatever it is given, norms too. The schedule's keys are the caller's affair, not Step's.
    schedule = {
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "warmup_steps": None,
        "decay_ratio": 1.0,
        "min_lr_ratio": 1.0,
    }
    optim = OptimConfig(**numbers, **schedule, decay_norms=True)
    step = Step(load(str(directory)).model, optim, Topology(0, 1), recompute="none")
    seconds, losses = [], []
    for ids in np.load(directory / "ids.npy"):
        labels = np.append(ids[1:], np.int32(NOT_COUNTED))
        positions = np.arange(len(ids), dtype=np.int32)
        batch = Batch(*(row[None] for row in (ids, labels, positions, np.zeros_like(ids))))
        started = time.perf_counter()
        losses.append(step([batch], optim.lr).loss)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "losses": losses, "peak": peak_memory()}))


if __name__ == "__main__":
    main()
