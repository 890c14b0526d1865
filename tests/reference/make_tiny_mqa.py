"""Makes tiny_mqa: one key/value head, a head_dim that isn't hidden_size / heads, linear rope scaling, a tied head.

PyTorch's numbers, so in an environment of its own: pip install torch==2.13.0 transformers && python make_tiny_mqa.py
"""

from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]

TARGET = Path(__file__).parent / "tiny_mqa"


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=50,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=1,
        head_dim=14,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 5000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(TARGET)
    (TARGET / "generation_config.json").unlink()
    ids = torch.randint(3, config.vocab_size, (3, 80))
    labels = torch.where(torch.rand(ids.shape) < 0.3, torch.full_like(ids, -100), ids)
    right, left = torch.ones_like(ids), torch.ones_like(ids)
    for row, missing in enumerate((0, 17, 50)):
        right[row, ids.shape[1] - missing :] = 0
        left[row, :missing] = 0
    labels_right = torch.where(right > 0, labels, torch.full_like(labels, -100))
    with torch.no_grad():
        positions = (left.cumsum(1) - 1).clamp(min=0)
        padded = model(ids, attention_mask=right, labels=labels_right)
        prompt = ids[:, :16]
        greedy = model.generate(prompt, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
        arrays = {
            "input_ids": ids,
            "labels": labels,
            "logits": model(ids).logits,
            "attention_mask_right": right,
            "labels_right": labels_right,
            "logits_right": padded.logits,
            "loss_right": padded.loss.double(),
            "attention_mask_left": left,
            "logits_left": model(ids, attention_mask=left, position_ids=positions).logits,
            "greedy_prompt": prompt,
            "greedy_ids": greedy,
        }
    loss = model(ids, labels=labels).loss
    loss.backward()
    arrays["loss"] = loss.detach().double()
    np.savez_compressed(TARGET / "reference.npz", **{name: value.numpy() for name, value in arrays.items()})
    gradients = {name: value.grad.numpy() for name, value in model.named_parameters()}
    np.savez_compressed(TARGET / "grads.npz", **gradients)
    weights = {name: value.detach().numpy().copy() for name, value in model.named_parameters()}
    save_file(weights, TARGET / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
