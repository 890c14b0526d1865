"""Names and shapes of a Llama's tensors, by Hugging Face's names, which are used everywhere in this package."""

from collections.abc import Iterable

from dscoder_exp.schema.llama import LlamaConfig, Lora

EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def block_name(layer: int, suffix: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` for 3 and `mlp.up_proj.weight`."""
    return f"model.layers.{layer}.{suffix}"


def block_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Suffix -> shape of the nine tensors of a block, in order of use. Matrices are [out, in]."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }


def parameter_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, from the embedding to the head; a tied model has no head."""
    table = (config.vocab_size, config.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: table}
    for layer in range(config.num_hidden_layers):
        shapes |= {block_name(layer, suffix): shape for suffix, shape in block_shapes(config).items()}
    shapes[NORM] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[HEAD] = table
    return shapes


def target_name(layer: int, module: str) -> str:
    """Name of a matrix that may have LoRA factors: `model.layers.3.mlp.up_proj.weight` for 3 and `up_proj`."""
    part = "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    return block_name(layer, f"{part}.{module}.weight")


def factor_names(target: str) -> tuple[str, str]:
    """Names of a matrix's factors A and B, as PEFT has them but for its prefix."""
    stem = target.removesuffix(".weight")
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def factor_shapes(config: LlamaConfig, lora: Lora, layers: Iterable[int] | None = None) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the LoRA factors of `layers` (None: all): each target's A [r, in] and B [out, r]."""
    matrices, shapes = parameter_shapes(config), {}
    for layer in range(config.num_hidden_layers) if layers is None else layers:
        for module in lora.target_modules:
            target = target_name(layer, module)
            (outputs, inputs), (a, b) = matrices[target], factor_names(target)
            shapes |= {a: (lora.r, inputs), b: (outputs, lora.r)}
    return shapes
