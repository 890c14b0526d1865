"""Convert Hugging Face's config.json to a LlamaConfig and back."""

from collections.abc import Sequence
from typing import Any

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig, RopeScaling

LLAMA_ONLY = "give a Llama (model_type llama: DeepSeek-Coder, Llama, SmolLM2, …)"
EOS, DEFAULT_EOS = "eos_token_id", 2  # transformers' default of a Llama
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

    def positive(self, name: str, default: int | None = None, most: int = 2**31 - 1, *, among: Any = None) -> int:
        value = (self.values if among is None else among).get(name)
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
        self.problem(f"{name} is {_shown(value)}, not a number above 0", f"correct {name}")
        return 1.0

    def token(self, name: str, default: int | None) -> int | None:
        return next(iter(self.tokens(name, default)), None)

    def tokens(self, name: str, default: int | None) -> tuple[int, ...]:
        """The token ids of a key that may list several, each once."""
        value = self.values.get(name, default)
        listed: list[Any] = value if isinstance(value, list) and value else [value]
        found = [item for item in listed if item not in (None, -1)]  # some old files write -1 for "none"
        if all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in found):
            return tuple(dict.fromkeys(found))
        self.problem(f"{name} is {_shown(value)}, not a token id", f"give a number or null as {name}")
        return ()


def listed_tokens(values: dict[str, Any], name: str, where: str) -> tuple[int, ...]:
    """The token ids of a key that holds one, a list of them, or null.

    Raises:
        Refused: it holds something else.
    """
    reader = _Reader(values, where)
    found = reader.tokens(name, None)
    if reader.problems:
        raise Refused(reader.problems)
    return found


def end_tokens(values: dict[str, Any], where: str) -> tuple[int, ...]:
    """The tokens that a config.json says end a text. Raises Refused as `from_hf` does."""
    return listed_tokens({EOS: DEFAULT_EOS} | values, EOS, where)


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
    context = reader.positive("max_position_embeddings", 2048)
    rope = _rope_values(reader)
    config = LlamaConfig(
        vocab_size=reader.positive("vocab_size"),
        hidden_size=hidden,
        intermediate_size=reader.positive("intermediate_size"),
        num_hidden_layers=reader.positive("num_hidden_layers", most=MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=context,
        rms_norm_eps=reader.number(values, "rms_norm_eps", 1e-6),
        rope_theta=reader.number(rope, "rope_theta", 10000.0),
        rope_scaling=_rope_scaling(reader, rope, context),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        bos_token_id=reader.token("bos_token_id", 1),
        eos_token_id=reader.token(EOS, DEFAULT_EOS),
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


def rope_scaling_of(given: dict[str, Any], context: int, where: str) -> RopeScaling | None:
    """The RopeScaling of these rope_parameters, with what they leave to defaults.

    Args:
        given: by transformers' names; none may be null.
        context: the model's max_position_embeddings.
        where: config key or file, for error messages.

    Raises:
        Refused: the type is not supported; values are missing or wrong.
    """
    reader = _Reader(given, where)
    found = _rope_scaling(reader, given, context)
    if reader.problems:
        raise Refused(reader.problems)
    return found


def _rope_values(reader: _Reader) -> dict[str, Any]:
    """The values of rope_scaling (transformers 4), else of rope_parameters (5), with those of the file beside them."""
    values = reader.values
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}  # in this order, as in transformers 5
    if not isinstance(rope, dict):
        reader.problem(f"rope_scaling is {rope!r}, not an object", "give null, or {rope_type: linear, factor: …}")
        rope = {}
    if nested := [name for name, value in rope.items() if isinstance(value, dict)]:
        reader.problem(f"rope_parameters differ by layer ({nested[0]}, …), which is not supported", LLAMA_ONLY)
    if rope.get("partial_rotary_factor", values.get("partial_rotary_factor")) not in (None, 1):
        reader.problem("partial_rotary_factor is not 1; rotating a part of each head is not supported", LLAMA_ONLY)
    beside = {name: values[name] for name in ("rope_theta", "original_max_position_embeddings") if name in values}
    return {**beside, **{name: value for name, value in rope.items() if value is not None}}


def _rope_scaling(reader: _Reader, rope: dict[str, Any], context: int) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", reader.number(rope, "factor"))
    if kind not in ("llama3", "yarn"):
        reader.problem(f"rope scaling {kind!r} is not supported", "give a model with linear, llama3 or yarn scaling")
        return None
    length = reader.positive("original_max_position_embeddings", context, among=rope)
    factor = reader.number(rope, "factor", context / length if kind == "yarn" else None)
    optional = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim") if kind == "yarn" else ()
    needed = () if kind == "yarn" else ("low_freq_factor", "high_freq_factor")
    numbers = {name: reader.number(rope, name) for name in (*needed, *optional) if name in needed or rope.get(name)}
    if kind == "llama3" and not reader.problems and numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        reader.problem("low_freq_factor is not below high_freq_factor", "correct them")
    truncate = False if rope.get("truncate") is False else None
    return RopeScaling(kind, factor, length, **numbers, truncate=truncate)


TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def to_hf(config: LlamaConfig, dtype: str = "F32", stop_token_ids: Sequence[int] = ()) -> dict[str, Any]:
    """The content of a config.json that transformers 4 and 5, and `from_hf`, read as this config.

    Args:
        dtype: of the tensors, as safetensors spells it.
        stop_token_ids: tokens that end an answer, besides the config's.
    """
    scaling = config.rope_scaling and config.rope_scaling.given
    ends = list(dict.fromkeys(token for token in (config.eos_token_id, *stop_token_ids) if token is not None))
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
        "rope_scaling": scaling and {"rope_type": scaling["type"], **scaling},
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        EOS: ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": config.pad_token_id,
        "torch_dtype": TORCH_DTYPES[dtype],
    }
