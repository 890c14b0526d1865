"""dscoder_exp's side of train_vs_torch.py: _own_train.py DIRECTORY PRECISION [lora]; lora: rank 16 for all matrices."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from _machine import peak_memory

from dscoder_exp.data.batch import Batch
from dscoder_exp.device.start import start_device
from dscoder_exp.model.build import build
from dscoder_exp.model.llama import Llama
from dscoder_exp.schema.config import MODULES, OptimConfig
from dscoder_exp.schema.llama import IGNORE_INDEX, Lora
from dscoder_exp.training.step import Step
from dscoder_exp.weights.lora.adapter import Factors
from dscoder_exp.weights.random_init import random_factors
from dscoder_exp.weights.source import open_weights

LORA = Lora(r=16, alpha=32.0, dropout=0.0, target_modules=MODULES)


def main() -> None:
    directory, precision = Path(sys.argv[1]), sys.argv[2]
    numbers = json.loads((directory / "optim.json").read_text())
    # decay_norms: PyTorch's AdamW decays all parameters. Step ignores the schedule: it gets the learning rate.
    schedule = {
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "warmup_steps": None,
        "decay_ratio": 1.0,
        "min_lr_ratio": 1.0,
    }
    optim = OptimConfig(**numbers, **schedule, decay_norms=True)
    model = model_of(directory, precision, LORA if "lora" in sys.argv[3:] else None)
    step = Step(model, optim, recompute="none")
    seconds, losses = [], []
    for ids in np.load(directory / "ids.npy"):
        labels = np.append(ids[1:], np.int32(IGNORE_INDEX))
        positions = np.arange(len(ids), dtype=np.int32)
        batch = Batch(*(row[None] for row in (ids, labels, positions, np.zeros_like(ids))))
        started = time.perf_counter()
        losses.append(step([batch], optim.lr).loss)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "losses": losses, "peak": peak_memory()}))


def model_of(directory: Path, precision: str, lora: Lora | None) -> Llama:
    """A model to train: all of its weights, or new LoRA factors if `lora` is given."""
    start_device("cpu")
    source = open_weights(str(directory))
    factors = lora and Factors(lora, dict(random_factors(source.config, lora, seed=0)))
    return build(source.config, source, seed=0, device="cpu", precision=precision, factors=factors)


if __name__ == "__main__":
    main()
