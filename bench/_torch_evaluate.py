"""transformers' side of evaluate_vs_transformers.py: _torch_evaluate.py DIRECTORY ASKED.json THREADS ANSWERS.jsonl

Each prompt alone, so that no padding changes a sum. Goes on after the answers that are there.
"""

import json
import sys
import time
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM  # pyright: ignore[reportMissingImports]


def main() -> None:
    directory, asked, threads, answers = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    settings = json.loads(Path(asked).read_text())
    file = Path(answers)
    done = len(file.read_text().splitlines()) if file.exists() else 0
    greedy = {"do_sample": False, "eos_token_id": settings["stop_ids"], "max_new_tokens": settings["max_new_tokens"]}
    with torch.inference_mode(), file.open("a") as out:
        for prompt in settings["prompts"][done:]:
            ids, started = torch.tensor([prompt]), time.perf_counter()
            found = model.generate(
                ids, attention_mask=torch.ones_like(ids), pad_token_id=settings["stop_ids"][0], **greedy
            )
            row = {"ids": found[0, len(prompt) :].tolist(), "seconds": time.perf_counter() - started}
            out.write(f"{json.dumps(row)}\n")
            out.flush()


if __name__ == "__main__":
    main()
