"""Run only the optimizer steps of task=train, without evaluation or checkpoints: _config_train.py OVERRIDE…

Prints one JSON object, whose keys are the fields of _measured.Measured.
"""

import json
import sys

from _machine import peak_memory
from hydra import compose, initialize_config_dir

from dscoder_exp.app import config_directory
from dscoder_exp.data.loader import load, train_batches
from dscoder_exp.device.start import start_device
from dscoder_exp.model.build import build
from dscoder_exp.schema.check import to_config
from dscoder_exp.tasks.prepare import prepare_data
from dscoder_exp.training.step import Step
from dscoder_exp.training.trainer import take_step, total_steps
from dscoder_exp.weights.resolve import open_model, open_text_setup


def main() -> None:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = to_config(compose("config", sys.argv[1:]))
    runtime = config.runtime
    start_device(runtime.device, jit_level=runtime.jit_level, deterministic=runtime.deterministic)
    opened = open_model(config.model)
    prepared = prepare_data(config, open_text_setup(config.model, config.tokenizer, opened))
    sequences = load(prepared, "train")
    model = build(opened.config, opened.source, seed=config.seed, device=runtime.device, precision=runtime.precision)
    step = Step(model, config.optim, recompute=config.train.recompute)
    batches = train_batches(sequences, config.train.micro_batch_size, seed=config.seed)
    steps = total_steps(config.train, len(sequences))
    seconds = [take_step(step, batches, config, steps).seconds for _ in range(steps)]
    report = {"sequences": len(sequences), "text": prepared.report.useful_fraction, "seconds": seconds}
    print(json.dumps(report | {"peak": peak_memory()}))


if __name__ == "__main__":
    main()
