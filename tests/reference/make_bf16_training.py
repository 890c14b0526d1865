"""Makes bf16_training.json: the training runs train_*/hparams_and_curve.json in PyTorch's bf16 on a CPU.

By the run's name and the attention implementation: loss and gradient norm before clipping of each step. The model
computes in bf16 with weights that are rounded, once a step, from the fp32 ones that AdamW updates; gradients are
rounded to bf16, summed over micro batches and clipped in fp32.
In an environment of its own: pip install torch==2.13.0 transformers==5.24.0 && python make_bf16_training.py
"""

import json
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent
ATTENTION = ("sdpa", "eager")


def train(folder: Path, attention: str) -> dict[str, list[float]]:
    hyper = json.loads((folder / "hparams_and_curve.json").read_text())
    start = HERE / Path(hyper["init_checkpoint"]).name
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16, attn_implementation=attention).train()
    exact = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    pairs = list(zip(model.parameters(), exact.parameters(), strict=True))
    matrices = [p for p in exact.parameters() if p.ndim > 1 or not hyper["no_decay_on_1d"]]
    vectors = [p for p in exact.parameters() if p.ndim == 1 and hyper["no_decay_on_1d"]]
    decay = hyper["weight_decay"]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=hyper["lr"], betas=tuple(hyper["betas"]), eps=hyper["eps"])
    curve, found = np.load(folder / "curve.npz"), {"loss": [], "grad_norm": []}
    for batches, rate in zip(curve["batches"], curve["lr"], strict=True):
        for group in adamw.param_groups:
            group["lr"] = float(rate)
        with torch.no_grad():
            for computed, master in pairs:
                computed.copy_(master)
                master.grad = torch.zeros_like(master)
        summed, micro = 0.0, [torch.from_numpy(ids.astype(np.int64)) for ids in batches]
        for ids in micro:
            model.zero_grad()
            loss = model(input_ids=ids, labels=ids).loss
            (loss / len(micro)).backward()
            summed += loss.item() / len(micro)
            for computed, master in pairs:
                master.grad += computed.grad.float()
        found["loss"].append(summed)
        found["grad_norm"].append(torch.nn.utils.clip_grad_norm_(exact.parameters(), hyper["clip_grad_norm"]).item())
        adamw.step()
    return found


if __name__ == "__main__":
    folders = sorted(path.parent for path in HERE.glob("train_*/curve.npz"))
    result = {folder.name: {kind: train(folder, kind) for kind in ATTENTION} for folder in folders}
    (HERE / "bf16_training.json").write_text(json.dumps(result, indent=1) + "\n")
