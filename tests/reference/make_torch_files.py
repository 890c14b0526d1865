"""Makes torch_files: a small model as PyTorch writes it, in several ways, and its values as safetensors.

In an environment of its own: pip install torch==2.14.1 safetensors && python make_torch_files.py
"""

import json
from collections import OrderedDict
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]
from safetensors.torch import save_file  # pyright: ignore[reportMissingImports]

TARGET = Path(__file__).parent / "torch_files"
HIDDEN, FFN, VOCAB = 8, 12, 16
CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    torch.manual_seed(0)
    state = state_dict()
    save(TARGET, "config.json", json.dumps(CONFIG, indent=1) + "\n")
    values = {name: value.detach().clone().contiguous() for name, value in state.items()}
    save_file(
        {name: value for name, value in values.items() if name != "lm_head.weight"}, TARGET / "values.safetensors"
    )
    torch.save(state, TARGET / "pytorch_model.bin")
    torch.save(state, TARGET / "legacy.bin", _use_new_zipfile_serialization=False)
    names = list(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for file, held in parts.items():
        torch.save({name: state[name] for name in held}, TARGET / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    save(TARGET, "pytorch_model.bin.index.json", json.dumps({"metadata": {}, "weight_map": weight_map}) + "\n")
    torch.save({"model": state, "step": 3}, TARGET / "nested.bin")


def state_dict() -> "OrderedDict[str, torch.Tensor]":
    """Tensors that share storages, lie at an offset, are transposed or expanded, and of each dtype; and parameters."""
    block = "model.layers.0."
    fused = torch.randn(2 * HIDDEN, HIDDEN)  # q, k, v are views of one storage
    tied = torch.nn.Parameter(torch.randn(VOCAB, HIDDEN).bfloat16())
    state = OrderedDict()
    state["model.embed_tokens.weight"] = tied
    state[block + "input_layernorm.weight"] = torch.ones(1).expand(HIDDEN)
    state[block + "self_attn.q_proj.weight"] = fused[:HIDDEN]
    state[block + "self_attn.k_proj.weight"] = fused[HIDDEN : HIDDEN + 4]
    state[block + "self_attn.v_proj.weight"] = fused[HIDDEN + 4 :]
    state[block + "self_attn.o_proj.weight"] = torch.randn(HIDDEN, HIDDEN).half().t()
    state[block + "post_attention_layernorm.weight"] = torch.randn(2 * HIDDEN)[::2]
    state[block + "mlp.gate_proj.weight"] = torch.randn(FFN, 2 * HIDDEN)[:, HIDDEN:]
    state[block + "mlp.up_proj.weight"] = torch.nn.Parameter(torch.randn(FFN, HIDDEN).double())
    state[block + "mlp.down_proj.weight"] = torch.randn(FFN, HIDDEN).t()
    state["model.norm.weight"] = torch.randn(HIDDEN)
    state["lm_head.weight"] = tied
    return state


def save(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)


if __name__ == "__main__":
    main()
