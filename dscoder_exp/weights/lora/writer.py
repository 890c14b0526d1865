"""Writing the adapter of a model in memory: what PEFT loads, with our record beside it (adapter.py)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dscoder_exp.hub.address import SCHEME
from dscoder_exp.schema.llama import LlamaConfig, Lora
from dscoder_exp.storage.file_names import ADAPTER_CONFIG_FILE, ADAPTER_FILE, ADAPTER_WEIGHTS_FILE
from dscoder_exp.storage.json_files import write_json
from dscoder_exp.weights.chat_template import keep, recorded
from dscoder_exp.weights.formats.safetensors_file import safetensors_layout
from dscoder_exp.weights.formats.tensor_io import TensorWriter
from dscoder_exp.weights.lora.adapter import FORMAT, PREFIX, VERSION
from dscoder_exp.weights.names import factor_shapes


def write_adapter(
    directory: Path,
    config: LlamaConfig,
    lora: Lora,
    factors: Iterable[tuple[str, np.ndarray]],
    *,
    base: tuple[str, str],
    template: str | None,
    lineage: dict[str, Any],
) -> None:
    """Writes an adapter's files into a directory, which makes it one.

    Args:
        factors: (name, fp32 array) of each that `factor_shapes` names.
        base: model.path and the SHA-256 of BASE_PROBE of the weights beside which they were trained.
        template: the prompt format that it was trained with; a file goes along.
        lineage: where it came from (JSON values).
    """
    path, sha256 = base
    shapes = {PREFIX + name: ("F32", shape) for name, shape in factor_shapes(config, lora).items()}
    with TensorWriter(directory / ADAPTER_WEIGHTS_FILE, safetensors_layout(shapes)) as writer:
        for name, array in factors:
            writer.write(PREFIX + name, np.ascontiguousarray(array, np.float32))
    write_json(directory / ADAPTER_CONFIG_FILE, _peft_config(lora, path))
    keep(directory, template)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "base": {"path": path, "sha256": sha256},
        "template": recorded(template),
        "tensors": writer.hashes(),
        "lineage": lineage,
    }
    write_json(directory / ADAPTER_FILE, record)


def _peft_config(lora: Lora, base: str) -> dict[str, Any]:
    """PEFT's LoraConfig; what it leaves out has the library's defaults."""
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
