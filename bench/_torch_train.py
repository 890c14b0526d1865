"""PyTorch's side of train_vs_torch.py: _torch_train.py DIRECTORY ATTENTION, where torch and transformers are installed.

ATTENTION is transformers' attn_implementation: eager or sdpa.
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
    directory, attention = Path(sys.argv[1]), sys.argv[2]
    optim = json.loads((directory / "optim.json").read_text())
    clip_norm = optim.pop("clip_norm")
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation=attention).train()
    model.config.use_cache = False  # no KV cache in training
    adamw = torch.optim.AdamW(model.parameters(), **optim)
    seconds, losses = [], []
    for ids in torch.from_numpy(np.load(directory / "ids.npy").astype(np.int64)):
        started = time.perf_counter()
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
