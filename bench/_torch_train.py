"""PyTorch's side of train_vs_torch.py: _torch_train.py DIRECTORY ATTENTION PRECISION, with torch and transformers.

ATTENTION is transformers' attn_implementation: eager or sdpa. PRECISION: fp32; autocast, products in bf16 and
weights in fp32; or bf16, everything.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from _machine import peak_memory
from transformers import LlamaForCausalLM  # pyright: ignore[reportMissingImports]


def main() -> None:
    directory, attention, precision = Path(sys.argv[1]), *sys.argv[2:4]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    optim = json.loads((directory / "optim.json").read_text())
    clip_norm = optim.pop("clip_norm")
    model = LlamaForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention).train()
    model.config.use_cache = False  # no KV cache in training
    adamw = torch.optim.AdamW(model.parameters(), **optim)
    seconds, losses = [], []
    for ids in torch.from_numpy(np.load(directory / "ids.npy").astype(np.int64)):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
            loss = model(input_ids=ids[None], labels=ids[None]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        adamw.step()
        adamw.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "losses": losses, "peak": peak_memory(), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
