"""Training speed and memory compared with PyTorch: python bench/train_vs_torch.py --torch-python PYTHON

PYTHON is an interpreter with torch and transformers. SmolLM2-135M's shape in fp32 with random weights, one sequence of
512 tokens per step, loss on all tokens, AdamW, gradients clipped to norm 1: ours with Step, PyTorch's with
transformers' LlamaForCausalLM and torch.optim.AdamW. All start from the same weights and train on the same ids, so that
equal losses show that they do the same work. The sides take turns, each time in a fresh process, so that other load on
the machine affects all of them. A side's step time is the median over its turns. The LoRA row trains factors of rank 16
on the same weights.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from _machine import machine, report_of
from safetensors.numpy import save_file

from dscoder_exp.app import config_directory
from dscoder_exp.device.start import set_environment
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import CONFIG_FILE, WEIGHTS_FILE
from dscoder_exp.weights.formats.hf_config import to_hf
from dscoder_exp.weights.random_init import random_weights

TOKENS = 512
WARM_UP = 2  # first steps that don't count: the first compiles, both allocate memory
OPTIM = {"lr": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "clip_norm": 1.0}
OURS, LORA, EAGER, SDPA = SIDES = ("dscoder_exp", "the same, LoRA", "torch, eager", "torch, sdpa")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="an interpreter with torch and transformers")
    parser.add_argument("--steps", type=int, default=8, help="measured steps per turn")
    parser.add_argument("--turns", type=int, default=2, help="turns per side")
    arguments = parser.parse_args()
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory), WARM_UP + arguments.steps)
        ours = [sys.executable, str(here / "_own_train.py"), directory]
        theirs = [arguments.torch_python, str(here / "_torch_train.py"), directory]
        commands = {OURS: ours, LORA: [*ours, "lora"], EAGER: [*theirs, "eager"], SDPA: [*theirs, "sdpa"]}
        plain = dict(os.environ)
        set_environment()  # as the command line does for the processes it starts
        environments = {OURS: dict(os.environ), LORA: dict(os.environ), EAGER: plain, SDPA: plain}
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for number in range(arguments.turns):
            for side in SIDES:
                turn = report_of(commands[side], environments[side])
                turns[side].append(turn)
                print(f"turn {number + 1}, {side:14} {step_of([turn]):6.2f} s a step", flush=True)
    print(f"\n{machine()}; PyTorch uses {turns[SDPA][0]['threads']} threads")
    print(f"{'':14}{'s a step':>10}{'tokens/s':>10}{'of ours':>9}{'peak memory':>13}   losses, first and last")
    for side in SIDES:
        seconds, losses = step_of(turns[side]), turns[side][0]["losses"]
        peak = max(turn["peak"] for turn in turns[side])
        print(
            f"{side:14}{seconds:10.2f}{TOKENS / seconds:10.0f}{step_of(turns[OURS]) / seconds:9.2f}"
            f"{peak / 1e9:10.2f} GB   {losses[0]:.5f} {losses[-1]:.5f}"
        )


def make(directory: Path, steps: int) -> None:
    """Write what all sides read: a Hugging Face checkpoint, ids of shape [steps, TOKENS], and AdamW's settings."""
    values = yaml.safe_load((config_directory() / "model" / "smollm2_135m.yaml").read_text())
    config = LlamaConfig(**{name: values[name] for name in LlamaConfig.__dataclass_fields__})
    save_file(dict(random_weights(config, 0)), directory / WEIGHTS_FILE, {"format": "pt"})
    (directory / CONFIG_FILE).write_text(json.dumps(to_hf(config, "F32")))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (steps, TOKENS), np.int32)
    np.save(directory / "ids.npy", ids)
    (directory / "optim.json").write_text(json.dumps(OPTIM))


def step_of(turns: list[dict[str, Any]]) -> float:
    """Seconds of the median step after WARM_UP, over all turns."""
    return median(seconds for turn in turns for seconds in turn["seconds"][WARM_UP:])


if __name__ == "__main__":
    main()
