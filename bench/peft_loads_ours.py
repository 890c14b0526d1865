"""Check that PEFT loads our adapter and computes our logits: python bench/peft_loads_ours.py --torch-python PYTHON

PYTHON is an interpreter with torch, transformers and peft. A LoRA adapter of a small random model is trained (twenty
steps, with dropout) and saved. PEFT computes the logits with the adapter unmerged and merged, and transformers those of
the weights that task=convert has merged.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _own_train import model_of

from dscoder_exp import load
from dscoder_exp.data.batch import Batch
from dscoder_exp.schema.config import MODULES, OptimConfig
from dscoder_exp.schema.llama import Lora
from dscoder_exp.training.step import Step
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.lora.writer import write_adapter

BASE = Path(__file__).parents[1] / "tests" / "reference" / "tiny_gqa"
LORA = Lora(r=4, alpha=12.0, dropout=0.1, target_modules=MODULES)
OPTIM = OptimConfig(0.01, [0.9, 0.95], 1e-8, 0.0, False, 1.0, "constant", 0.0, None, 0.2, 0.1)
PEFT_SCRIPT = """
import sys, numpy, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, merged, ids, out = sys.argv[1:]
ids = torch.from_numpy(numpy.load(ids)).long()
with torch.no_grad():
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    unmerged = model(ids).logits
    numpy.savez(out, unmerged=unmerged, merged=model.merge_and_unload()(ids).logits,
                converted=AutoModelForCausalLM.from_pretrained(merged).eval()(ids).logits)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="an interpreter with torch, transformers and peft")
    interpreter = parser.parse_args().torch_python
    ids = np.random.default_rng(0).integers(3, 120, (4, 64)).astype(np.int32)
    with tempfile.TemporaryDirectory() as directory:
        adapter, merged, ids_file, logits_file = (
            str(Path(directory) / name) for name in ("adapter", "merged", "ids.npy", "out.npz")
        )
        ours = train(ids, Path(adapter))
        convert = [
            "task=convert",
            f"weights.source={BASE}",
            f"weights.target={merged}",
            f"weights.merge_adapter={adapter}",
        ]
        subprocess.run([sys.executable, "-m", "dscoder_exp", *convert, f"hydra.sweep.dir={directory}/job"], check=True)
        np.save(ids_file, ids)
        subprocess.run([interpreter, "-c", PEFT_SCRIPT, str(BASE), adapter, merged, ids_file, logits_file], check=True)
        with np.load(logits_file) as theirs:
            for name in theirs:
                print(f"{name:10} largest difference of logits from ours: {np.abs(theirs[name] - ours).max():.1e}")
        base = load(str(BASE)).logits(ids)
        print(f"{'base':10} {np.abs(base - ours).max():.1e}: difference that the adapter makes")


def train(ids: np.ndarray, target: Path) -> np.ndarray:
    """Train and save an adapter; returns the logits [B, T, V] of the model with it."""
    model = model_of(BASE, "fp32", LORA)
    positions, documents = np.broadcast_to(np.arange(64, dtype=np.int32), ids.shape), np.zeros_like(ids)
    step = Step(model, OPTIM, recompute="none")
    for _ in range(20):
        step([Batch(ids, np.roll(ids, -1, 1), positions, documents)], OPTIM.lr)
    base = str(BASE), model.base_sha256
    target.mkdir()
    beside = {"base": base, "template": None, "generation": GenerationConfig(), "lineage": {}}
    write_adapter(target, model.config, LORA, model.masters.state(), **beside)
    return model.logits(model.inputs(ids, positions, documents)).reshape(*ids.shape, -1)


if __name__ == "__main__":
    main()
