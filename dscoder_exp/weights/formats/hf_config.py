"""Convert Hugging Face's config.json to a LlamaConfig and back."""

from typing import Any

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig, RopeScaling

LLAMA_ONLY = "give a Llama (model_type llama: DeepSeek-Coder, Llama, SmolLM2, …)"
MAX_LAYERS = 10_000  # a larger number means a damaged file, and would take long to process
# Parts of architectures similar to Llama whose weights would load, but compute something else.
UNSUPPORTED_PARTS = {
    "mistral": "its sliding-window attention",
    "mixtral": "its mixture of experts",
    "qwen2": "a bias on its query, key and value projections",
    "qwen2_moe": "its mixture of experts",
    "qwen3": "a norm on its queries and keys",
    "deepseek_v2": "its latent attention and mixture of experts",
    "deepseek_v3": "its latent attention and mixture of experts",
}


class _Reader:
    """Reads typed values from a config.json, and collects all problems."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self.problems: list[Problem] = []

    def problem(self, what: str, remedy: str) -> None:
        self.problems.append(Problem(self.where, what, remedy))

    def positive(self, name: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most:
            return value
        self.problem(f"{name} is {_shown(value)}, not a whole number from 1 to {most}", f"correct {name} in the file")
        return 1

    def number(self, values: dict[str, Any], name: str, default: float | None = None) -> float:
        value = values.get(name)
        value = default if value is None else value
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
        self.problem(f"{name} is {_shown(value)}, not a number above 0", f"correct {name} in the file")
        return 1.0

    def token(self, name: str, default: int | None) -> int | None:
        value = self.values.get(name, default)
        if isinstance(value, list) and value:  # several EOS tokens: the first ends a text
            value = value[0]
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        if value != -1:  # some old files write -1 for "none"
            self.problem(f"{name} is {_shown(value)}, not a token id", f"give a number or null as {name}")
        return None


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)


def not_llama(name: str, kind: Any) -> str:
    """The message for an architecture `kind`, found at the key `name`, that isn't Llama."""
    missing = UNSUPPORTED_PARTS.get(kind) if isinstance(kind, str) else None
    return f"{name} is {_shown(kind)}, not 'llama'" + (f": {missing} is not supported" if missing else "")


def from_hf(values: dict[str, Any], where: str) -> LlamaConfig:
    """The LlamaConfig of a config.json; absent keys have transformers' defaults.

    Args:
        values: the content of a config.json.
        where: the file; error messages name it.

    Raises:
        Refused: the model isn't a Llama, has unsupported parts, or inconsistent sizes; all problems are reported.
    """
    if values.get("model_type") != "llama":
        raise refuse(where, not_llama("model_type", values.get("model_type")), LLAMA_ONLY)
    reader = _Reader(values, where)
    _check_unsupported(reader)
    heads = reader.positive("num_attention_heads")
    hidden = reader.positive("hidden_size")
    key_value_heads = reader.positive("num_key_value_heads", heads)
    head_dim = reader.positive("head_dim", max(hidden // heads, 1))
    if heads % key_value_heads:
        what = f"num_attention_heads {heads} is not a multiple of num_key_value_heads {key_value_heads}"
        reader.problem(what, "correct the file")
    if values.get("head_dim") is None and hidden % heads:
        reader.problem(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}", "give head_dim")
    elif head_dim % 2:
        reader.problem(f"head_dim {head_dim} is odd; rotary embedding needs pairs", "correct the file")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}  # transformers 5 or before
    if not isinstance(rope, dict):
        reader.problem(f"rope_scaling is {rope!r}, not an object", "give null, or {type: linear, factor: …}")
        rope = {}
    config = LlamaConfig(
        vocab_size=reader.positive("vocab_size"),
        hidden_size=hidden,
        intermediate_size=reader.positive("intermediate_size"),
        num_hidden_layers=reader.positive("num_hidden_layers", most=MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=reader.positive("max_position_embeddings", 2048),
        rms_norm_eps=reader.number(values, "rms_norm_eps", 1e-6),
        rope_theta=reader.number(rope if "rope_theta" in rope else values, "rope_theta", 10000.0),
        rope_scaling=_rope_scaling(reader, rope),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        bos_token_id=reader.token("bos_token_id", 1),
        eos_token_id=reader.token("eos_token_id", 2),
        pad_token_id=reader.token("pad_token_id", None),
    )
    if reader.problems:
        raise Refused(reader.problems)
    return config


def _check_unsupported(reader: _Reader) -> None:
    for name in ("attention_bias", "mlp_bias"):
        if reader.values.get(name):
            reader.problem(f"{name} is true; projections with a bias are not supported", "give a Llama without biases")
    if window := reader.values.get("sliding_window"):
        reader.problem(f"sliding_window is {window!r}; sliding-window attention is not supported", LLAMA_ONLY)
    activation = reader.values.get("hidden_act", "silu")
    if activation != "silu":
        reader.problem(f"hidden_act is {activation!r}, not 'silu'", LLAMA_ONLY)
    if reader.values.get("quantization_config"):
        reader.problem("the weights are quantised (quantization_config)", "give the fp32, fp16 or bf16 weights")


def _rope_scaling(reader: _Reader, rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "linear":
        reader.problem(f"rope scaling {kind!r} is not supported", "give a model with rope scaling 'linear' or none")
        return None
    return RopeScaling("linear", reader.number(rope, "factor"))


TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def to_hf(config: LlamaConfig, dtype: str = "F32") -> dict[str, Any]:
    """The content of a config.json that transformers 4 and 5, and `from_hf`, read as this config.

    Args:
        dtype: of the tensors, as safetensors spells it.
    """
    scaling = config.rope_scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling and {"rope_type": scaling.type, "type": scaling.type, "factor": scaling.factor},
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": TORCH_DTYPES[dtype],
    }
