"""Makes bf16_block: how far PyTorch's bf16 gradients of a block, and of head and loss, are from its fp32 ones.

In an environment of its own: pip install torch==2.13.0 transformers==5.24.0 && python make_bf16_block.py
"""

import sys
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import LlamaConfig  # pyright: ignore[reportMissingImports]
from transformers.models.llama import modeling_llama  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from bf16_support import (  # pyright: ignore[reportMissingImports]
    CASES,
    EPS,
    GRADIENTS,
    HEAD_CASES,
    HEADS,
    HIDDEN,
    INNER,
    KEY_HEADS,
    SEEDS,
    SIZE,
    STRIDE,
    THETA,
    VOCABULARY,
    causal_mask,
    errors,
    head_inputs,
    inputs,
    positions,
)

TARGET = Path(__file__).parent / "bf16_block" / "gradients.npz"
ATTENTION = ("sdpa", "eager")


def gradients(case: str, seed: int, attention: str, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Of x and each weight. Both and what becomes of them are in dtype, but for what transformers computes in fp32."""
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        head_dim=SIZE,
        rms_norm_eps=EPS,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        attn_implementation=attention,
    )
    layer = modeling_llama.LlamaDecoderLayer(config, 0).to(dtype)
    rotary = modeling_llama.LlamaRotaryEmbedding(config)
    arrays = inputs(case, seed)
    x, dy = (torch.from_numpy(array)[None].to(dtype) for array in arrays[:2])
    layer.load_state_dict({f"{name}.weight": torch.from_numpy(value) for name, value in arrays[2].items()})
    allowed = torch.from_numpy(causal_mask())
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    places = torch.from_numpy(positions())[None]
    x.requires_grad_()
    layer(x, attention_mask=mask[None, None], position_embeddings=rotary(x, places)).backward(dy)
    found = {"x": x.grad[0], **{name: layer.get_parameter(f"{name}.weight").grad for name in arrays[2]}}
    assert all(gradient.dtype == dtype for gradient in found.values())
    return {name: gradient.float().numpy() for name, gradient in found.items()}


def head_gradients(case: str, seed: int, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Of the summed loss, on the final norm's input, its weight and the head; logits become fp32 as in transformers."""
    *arrays, labels = head_inputs(case, seed)
    x, weight, table = (torch.from_numpy(array).to(dtype) for array in arrays)
    norm, head = modeling_llama.LlamaRMSNorm(HIDDEN, EPS), torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
    norm.weight.data, head.weight.data = weight, table
    x.requires_grad_()
    logits = head(norm(x)).float()
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long(), reduction="sum").backward()
    found = {"x": x.grad, "norm": norm.weight.grad, "lm_head": head.weight.grad}
    return {name: gradient.float().numpy() for name, gradient in found.items()}


def main() -> None:
    kept: dict[str, np.ndarray] = {}
    for case in CASES:
        exact = [gradients(case, seed, "eager", torch.float32) for seed in SEEDS]
        kept |= {f"{case}.fp32.{name}": exact[0][name].reshape(-1)[::STRIDE] for name in GRADIENTS}
        for attention in ATTENTION:
            found = [gradients(case, seed, attention, torch.bfloat16) for seed in SEEDS]
            distances = errors(found, exact)
            kept[f"{case}.{attention}"] = np.array(list(distances.values()))
            print(case, attention, *(f"{name} {value:.5f}" for name, value in distances.items()))
    for case in HEAD_CASES:
        exact, found = (
            [head_gradients(case, seed, dtype) for seed in SEEDS] for dtype in (torch.float32, torch.bfloat16)
        )
        kept |= {f"head.{case}.fp32.{name}": gradient.reshape(-1)[::STRIDE] for name, gradient in exact[0].items()}
        distances = errors(found, exact)
        kept[f"head.{case}"] = np.array(list(distances.values()))
        print("head", case, *(f"{name} {value:.5f}" for name, value in distances.items()))
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **kept)


if __name__ == "__main__":
    main()
