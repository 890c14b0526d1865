"""Write a LoRA adapter: the files that PEFT loads, and adapter.json (adapter.py)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dscoder_exp.hub.address import SCHEME
from dscoder_exp.schema.llama import LlamaConfig, Lora
from dscoder_exp.storage.file_names import ADAPTER_CONFIG_FILE, ADAPTER_FILE, ADAPTER_WEIGHTS_FILE
from dscoder_exp.storage.json_files import write_json
from dscoder_exp.weights.chat_template import ModelTemplate, write_template
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import TensorWriter
from dscoder_exp.weights.generation_config import GenerationConfig, write_generation_config
from dscoder_exp.weights.lora.adapter import FORMAT, PREFIX, VERSION
from dscoder_exp.weights.names import factor_shapes


def write_adapter(
    directory: Path,
    config: LlamaConfig,
    lora: Lora,
    factors: Iterable[tuple[str, np.ndarray]],
    *,
    base: tuple[str, str],
    template: ModelTemplate | None,
    generation: GenerationConfig,
    lineage: dict[str, Any],
) -> None:
    """Write an adapter's files into a directory.

    Args:
        factors: (name, fp32 array) of each factor in `factor_shapes`.
        base: the base model's path, and the SHA-256 of its BASE_PROBE.
        template: the prompt format that it was trained with; written as chat_template.jinja.
        generation: the tokens that end an answer.
        lineage: JSON values that say how the adapter was made.
    """
    path, sha256 = base
    shapes = {PREFIX + name: ("F32", shape) for name, shape in factor_shapes(config, lora).items()}
    with TensorWriter(directory / ADAPTER_WEIGHTS_FILE, safetensors_layout(shapes)) as writer:
        for name, array in factors:
            writer.write(PREFIX + name, np.ascontiguousarray(array, np.float32))
    write_json(directory / ADAPTER_CONFIG_FILE, _peft_config(lora, path))
    write_template(directory, template)
    write_generation_config(directory, config, generation)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "base": {"path": path, "sha256": sha256},
        "template": template and template.name,
        "tensors": writer.hashes(),
        "lineage": lineage,
    }
    write_json(directory / ADAPTER_FILE, record)


def _peft_config(lora: Lora, base: str) -> dict[str, Any]:
    """The content of PEFT's adapter_config.json; absent keys have PEFT's defaults."""
    name, _, revision = base.removeprefix(SCHEME).partition("@")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name if base.startswith(SCHEME) else base,
        "revision": revision if base.startswith(SCHEME) and revision else None,
        "r": lora.r,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
