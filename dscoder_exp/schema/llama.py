"""The resolved shape of a Llama model and of its LoRA factors. Never imports mindspore."""

from dataclasses import dataclass, fields
from typing import Any

from dscoder_exp.schema.config import MODULES, AdapterConfig

IGNORE_INDEX = -100  # label of a position that the loss ignores, as in PyTorch's cross_entropy


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies are stretched to a longer context (weights/rotary_frequencies.py computes them).

    Fields are named as in transformers' rope_parameters (modeling_rope_utils.py); None: not of this type, or not given.

    Attributes:
        type: linear, llama3 or yarn.
        factor: by what the frequencies are divided: all of them (linear), or the low ones.
        original_max_position_embeddings: llama3, yarn: the context before it was stretched.
        low_freq_factor, high_freq_factor: llama3: original context / wavelength at which stretching is complete, and
            at which it begins.
        beta_fast, beta_slow: yarn: the same, as turns within the original context: beginning, and complete.
        attention_factor: yarn: cos and sin are multiplied by it; None: by what follows from factor, or from mscale and
            mscale_all_dim.
        truncate: yarn: whether the pairs at which stretching begins and ends are rounded to whole ones.
    """

    type: str
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Field -> value of those that aren't None."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}


@dataclass(frozen=True)
class LlamaConfig:
    """Fields are named as in Hugging Face's LlamaConfig, so that a config.json maps onto them one to one."""

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
        """Number of parameters; tied embedding and head count once."""
        tables = 1 if self.tie_word_embeddings else 2
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        return self.matrix_parameters + (tables - 1) * self.vocab_size * self.hidden_size + norms

    @property
    def matrix_parameters(self) -> int:
        """Number of parameters that each token is multiplied with: the blocks' matrices and the head."""
        heads = (self.num_attention_heads + self.num_key_value_heads) * self.head_dim
        block = 2 * self.hidden_size * heads + 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * block + self.vocab_size * self.hidden_size


@dataclass(frozen=True)
class Lora:
    """LoRA settings: W x becomes W x + scale * B A x, with A [r, in] and B [out, r] (Hu et al. 2021, arXiv:2106.09685).

    Attributes:
        r: rank of the factors A and B.
        alpha: scale * r.
        dropout: dropout rate of A's input in training.
        target_modules: matrices of every block that have factors, in the order of MODULES.
    """

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]

    def __str__(self) -> str:
        return f"LoRA of rank {self.r}, alpha {self.alpha:g}, on {', '.join(self.target_modules)}"

    @property
    def scale(self) -> float:
        return self.alpha / self.r


def training_flops_per_token(config: LlamaConfig, lora: Lora | None) -> int:
    """Floating-point operations of a training step per token: 6 for each parameter that a token is multiplied with,
    2 forward and 4 backward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), without attention's scores.

    With LoRA 4: frozen weights have no gradient. Recomputing isn't counted.
    """
    return (6 if lora is None else 4) * config.matrix_parameters


def lora_of(adapter: AdapterConfig) -> Lora | None:
    """The LoRA settings of the `adapter` group, which cross.py has checked; None with adapter=none."""
    if adapter.type == "none":
        return None
    given: Any = adapter  # cross.py has refused null values
    return Lora(given.r, given.alpha, given.dropout, tuple(name for name in MODULES if name in given.target_modules))
