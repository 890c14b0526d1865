"""The resolved shape of a Llama model: what config.json, GGUF metadata or a `model` group comes down to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeScaling:
    """Linear position interpolation: positions are divided by `factor` (HF: rope_type "linear")."""

    type: str
    factor: float


@dataclass(frozen=True)
class LlamaConfig:
    """Names and meanings as in Hugging Face's LlamaConfig, so that a config.json maps onto it key by key."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    @property
    def num_parameters(self) -> int:
        """Weights in the model; a tied head counts once."""
        heads = (self.num_attention_heads + self.num_key_value_heads) * self.head_dim
        block = 2 * self.hidden_size * heads + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * block + tables * self.vocab_size * self.hidden_size + self.hidden_size
