"""transformers' side of generate_vs_peers.py: _torch_generate.py DIRECTORY PRECISION THREADS"""

import json
import sys

import torch  # pyright: ignore[reportMissingImports]
from _generation import DECODED, PROMPT, rates
from _machine import peak_memory
from transformers import AutoModelForCausalLM, StaticCache  # pyright: ignore[reportMissingImports]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    directory, precision, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=DTYPES[precision]).eval()
    ids = torch.arange(PROMPT)[None] + 100

    def decode(batch: int) -> None:
        cache = StaticCache(config=model.config, max_cache_len=DECODED)
        token = torch.full((batch, 1), 100)
        for position in range(DECODED):
            place = torch.tensor([position])
            model(token, past_key_values=cache, use_cache=True, cache_position=place, position_ids=place[None])

    with torch.inference_mode():
        found = rates(lambda: model(ids, use_cache=True, logits_to_keep=1), decode)
    print(json.dumps(found | {"peak": peak_memory()}))


if __name__ == "__main__":
    main()
