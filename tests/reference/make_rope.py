"""Makes rope, the frequencies, cos and sin of scaled rotary embeddings, and the models tiny_llama3 and tiny_yarn.

PyTorch's numbers, so in an environment of its own:
pip install torch==2.14.1 transformers==5.24.0 && python make_rope.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]
from transformers.models.llama.modeling_llama import (  # pyright: ignore[reportMissingImports]
    LlamaRotaryEmbedding,
)

HERE = Path(__file__).parent
POSITIONS = [0, 1, 17, 1000, 4097, 65535]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# name -> what a config.json says, by transformers 4's names and by 5's
CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {"head_dim": 128, "rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama_3_1": {
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", **LLAMA3},
    },
    "llama_3_2": {
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3, "factor": 32.0},
    },
    "yarn_llama_2_64k": {
        "head_dim": 128,
        "max_position_embeddings": 65536,
        "rope_theta": 1e4,
        "rope_scaling": {
            "type": "yarn",
            "factor": 16.0,
            "original_max_position_embeddings": 4096,
            "finetuned": True,
        },
    },
    "yarn_mscale": {
        "head_dim": 64,
        "max_position_embeddings": 163840,
        "rope_theta": 1e4,
        "rope_scaling": {
            "type": "yarn",
            "factor": 40,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 0.8,
        },
    },
    "yarn_all_given": {
        "head_dim": 96,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 8192,
            "attention_factor": 1.25,
            "beta_fast": 24.0,
            "beta_slow": 2.0,
            "truncate": False,
        },
    },
    "yarn_of_its_own_context": {
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "rope_theta": 1e4,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0},
    },
}


def main() -> None:
    arrays = {}
    for name, given in CONFIGS.items():
        rotary = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(given))))
        cos, sin = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
        arrays |= {
            f"{name}/inv_freq": rotary.inv_freq.numpy(),
            f"{name}/cos": cos[0].numpy(),
            f"{name}/sin": sin[0].numpy(),
        }
        arrays[f"{name}/attention_factor"] = np.float64(rotary.attention_scaling)
    (HERE / "rope").mkdir(exist_ok=True)
    np.savez_compressed(HERE / "rope" / "frequencies.npz", positions=np.array(POSITIONS), **arrays)
    (HERE / "rope" / "configs.json").write_text(json.dumps(CONFIGS, indent=1) + "\n")
    short = {**LLAMA3, "original_max_position_embeddings": 32, "factor": 4.0}
    make_model(HERE / "tiny_llama3", {"rope_type": "llama3", "rope_theta": 1e4, **short})
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    make_model(HERE / "tiny_yarn", yarn | {"beta_fast": 8.0})


def make_model(target: Path, rope: dict[str, Any]) -> None:
    """A model with reference.npz; tiny_llama3's weights are in pytorch_model.bin."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        rope_parameters=rope,
        rms_norm_eps=1e-5,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval().float()
    target.mkdir(exist_ok=True)
    config.save_pretrained(target)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if "llama3" in target.name:
        torch.save(weights, target / "pytorch_model.bin")
    else:
        save_file({n: v.numpy() for n, v in weights.items()}, target / "model.safetensors", metadata={"format": "pt"})
    ids = torch.randint(3, config.vocab_size, (2, 100))
    labels = torch.where(torch.rand(ids.shape) < 0.3, torch.full_like(ids, -100), ids)
    right, left = torch.ones_like(ids), torch.ones_like(ids)
    right[1, 70:], left[1, :30] = 0, 0
    labels_right = torch.where(right > 0, labels, torch.full_like(labels, -100))
    prompt = ids[:, :40]
    with torch.no_grad():
        padded = model(ids, attention_mask=right, labels=labels_right)
        positions = (left.cumsum(1) - 1).clamp(min=0)
        arrays = {
            "input_ids": ids,
            "labels": labels,
            "logits": model(ids).logits,
            "loss": model(ids, labels=labels).loss.double(),
            "attention_mask_right": right,
            "labels_right": labels_right,
            "logits_right": padded.logits,
            "loss_right": padded.loss.double(),
            "attention_mask_left": left,
            "logits_left": model(ids, attention_mask=left, position_ids=positions).logits,
            "greedy_prompt": prompt,
            "greedy_ids": model.generate(prompt, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0),
        }
    np.savez_compressed(target / "reference.npz", **{name: value.numpy() for name, value in arrays.items()})


if __name__ == "__main__":
    main()
