"""Training speed and memory compared with PyTorch: python bench/train_vs_torch.py --torch-python PYTHON

PYTHON is an interpreter with torch and transformers. SmolLM2-135M's shape with random weights, one sequence of 512
tokens per step, loss on all tokens, AdamW, gradients clipped to norm 1: ours with Step, PyTorch's with transformers'
LlamaForCausalLM and torch.optim.AdamW. With --precision bf16, PyTorch's sides are autocast with fp32 weights, which
ours has, too, and weights and moments in bf16, which lose small updates but leave less to do. All start from the same
weights and train on the same ids, so that equal losses show that they do the same work. The sides take turns, each time
in a fresh process, so that other load on the machine affects all of them. A side's step time is the median over its
turns. The LoRA row trains factors of rank 16 on the same weights.
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
OURS, LORA = "dscoder_exp", "the same, LoRA"
# By precision, PyTorch's sides and the arguments of _torch_train.py.
PEERS = {
    "fp32": {"torch, eager": ("eager", "fp32"), "torch, sdpa": ("sdpa", "fp32")},
    "bf16": {"torch, autocast": ("sdpa", "autocast"), "torch, all bf16": ("sdpa", "bf16")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="an interpreter with torch and transformers")
    parser.add_argument("--precision", choices=list(PEERS), default="fp32")
    parser.add_argument("--steps", type=int, default=8, help="measured steps per turn")
    parser.add_argument("--turns", type=int, default=2, help="turns per side")
    arguments = parser.parse_args()
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory), WARM_UP + arguments.steps)
        ours = [sys.executable, str(here / "_own_train.py"), directory, arguments.precision]
        theirs = [arguments.torch_python, str(here / "_torch_train.py"), directory]
        peers = {side: [*theirs, *options] for side, options in PEERS[arguments.precision].items()}
        commands = {OURS: ours, LORA: [*ours, "lora"], **peers}
        plain = dict(os.environ)
        set_environment()  # as the command line does for the processes it starts
        environments = {side: plain if side in peers else dict(os.environ) for side in commands}
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
        for number in range(arguments.turns):
            for side in commands:
                turn = report_of(commands[side], environments[side])
                turns[side].append(turn)
                print(f"turn {number + 1}, {side:15} {step_of([turn]):6.2f} s a step", flush=True)
    threads = next(turns[side][0]["threads"] for side in peers)
    print(f"\n{machine()}; {arguments.precision}; PyTorch uses {threads} threads")
    print(f"{'':15}{'s a step':>10}{'tokens/s':>10}{'of ours':>9}{'peak memory':>13}   losses, first and last")
    for side in commands:
        seconds, losses = step_of(turns[side]), turns[side][0]["losses"]
        peak = max(turn["peak"] for turn in turns[side])
        print(
            f"{side:15}{seconds:10.2f}{TOKENS / seconds:10.0f}{step_of(turns[OURS]) / seconds:9.2f}"
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
