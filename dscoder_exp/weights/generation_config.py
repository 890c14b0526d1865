"""Which tokens end an answer, and generation_config.json, in which transformers and vLLM look for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import GENERATION_FILE
from dscoder_exp.storage.json_files import read_json, write_json
from dscoder_exp.weights.formats.hf_config import EOS, listed_tokens


@dataclass(frozen=True)
class GenerationConfig:
    """How a model's answers end, and what else its generation_config.json says.

    Attributes:
        stop_token_ids: each of them ends an answer; none: unknown.
        settings: the file's other keys, such as a temperature. They are only written again.
    """

    stop_token_ids: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def generation_in(directory: Path, listed: tuple[int, ...], key: str) -> GenerationConfig:
    """Of a model's directory. generation_config.json counts first, as in transformers.

    Args:
        listed: the end tokens of config.json, for a directory without that file, or whose file names none.
        key: the config key that held the directory.

    Raises:
        Refused: the file can't be read, or its eos_token_id holds something other than token ids.
    """
    file = directory / GENERATION_FILE
    if not file.is_file():
        return GenerationConfig(listed)
    values = read_json(file, key)
    found = listed_tokens(values, EOS, str(file))
    return GenerationConfig(found or listed, {name: value for name, value in values.items() if name != EOS})


def write_generation_config(directory: Path, config: LlamaConfig, generation: GenerationConfig) -> None:
    """Write generation_config.json; what its settings say of bos and padding wins over the config."""
    tokens = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    values = {name: token for name, token in tokens.items() if token is not None} | dict(generation.settings)
    stops = list(generation.stop_token_ids)
    if stops:
        values[EOS] = stops[0] if len(stops) == 1 else stops
    write_json(directory / GENERATION_FILE, values)
