"""A LoRA adapter on disk: PEFT's adapter_config.json and adapter_model.safetensors, and our own adapter.json.

adapter.json: {format, version, base: {path, sha256}, template, tensors: {name: sha256}, lineage}. An adapter written by
PEFT has no adapter.json: its base model is unknown, so only shapes are checked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import MODULES, LlamaConfig, Lora
from dscoder_exp.storage.file_names import ADAPTER_CONFIG_FILE, ADAPTER_FILE, ADAPTER_WEIGHTS_FILE
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.chat_template import template_path
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.formats.tensor_io import NUMPY_DTYPES, from_float32, read_rows, to_float32
from dscoder_exp.weights.names import factor_names, factor_shapes, target_name
from dscoder_exp.weights.native.manifest import COPY_AGAIN, refuse_other_format

FORMAT, VERSION = "dscoder_exp adapter", 1
BASE_PROBE = target_name(0, "k_proj")  # its SHA-256 identifies a base model: any training changes this matrix
PREFIX = "base_model.model."  # PEFT puts it before a module's name in the model
MAX_NAMES_SHOWN = 3  # per list in a message
# Keys of adapter_config.json that can change the computation, and their values that don't.
NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "lora_bias": (None, False),
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
}


@dataclass(frozen=True)
class Factors:
    """LoRA factors on the host: name (names.py's `factor_shapes`) -> array."""

    lora: Lora
    arrays: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory.

    Attributes:
        factors: name (names.py) -> float32 array.
        base: SHA-256 of the base model's BASE_PROBE; None: unknown.
        template: the prompt format that it was trained with; None: unknown.
    """

    path: Path
    lora: Lora
    factors: Mapping[str, NDArray[np.float32]]
    base: str | None
    template: str | None

    def merge_rows(self, name: str, rows: NDArray, first: int, dtype: str) -> NDArray:
        """Merge the factors into rows of a weight: W + scale * B A. Without factors of that name, return `rows`.

        Args:
            rows: the weight's rows from `first` on, [n, in], in the stored dtype `dtype`; so is the result.
        """
        a, b = (self.factors.get(factor) for factor in factor_names(name))
        if a is None or b is None:
            return rows
        added = (b[first : first + len(rows)] * np.float32(self.lora.scale)) @ a
        return from_float32(to_float32(rows, dtype) + added, dtype)


def read_adapter(path: str, key: str) -> Adapter:
    """Read an adapter into memory.

    Raises:
        Refused: `path` holds no adapter, it is damaged, or of an unsupported kind.
    """
    found = locate(path, key)
    if not (found / ADAPTER_CONFIG_FILE).is_file() or not (found / ADAPTER_WEIGHTS_FILE).is_file():
        what = f"{path} holds no adapter: {ADAPTER_CONFIG_FILE} and {ADAPTER_WEIGHTS_FILE}"
        raise refuse(key, what, "give an adapter's directory, such as a checkpoint of a run with adapter=lora")
    file = found / ADAPTER_WEIGHTS_FILE
    entries = {name.removeprefix(PREFIX): entry for name, entry in read_header(file, key).items()}
    modules = tuple(module for module in MODULES if any(f".{module}.lora_" in name for name in entries))
    lora = _lora(found / ADAPTER_CONFIG_FILE, modules, key)
    factors = {}
    for name, entry in entries.items():
        if entry.dtype not in NUMPY_DTYPES or len(entry.shape) != 2:
            raise refuse(key, f"{file}: {name} is {entry.dtype} {list(entry.shape)}, not a LoRA factor", COPY_AGAIN)
        raw = read_rows(file, entry, 0, entry.shape[0])
        factors[name] = to_float32(raw, entry.dtype).reshape(entry.shape)
    base, template = _read_record(found, factors, key)
    return Adapter(found, lora, factors, base, template)


def _lora(file: Path, modules: tuple[str, ...], key: str) -> Lora:
    values = read_json(file, key)
    for name, plain in NEUTRAL_VALUES.items():
        if values.get(name, plain[0]) not in plain:
            what = f"{file}: {name} is {json.dumps(values[name])}, which is not supported"
            raise refuse(key, what, "merge it with PEFT (merge_and_unload), and use the result as model.path")
    r, alpha, dropout = values.get("r"), values.get("lora_alpha"), values.get("lora_dropout", 0.0)
    if not isinstance(r, int) or not isinstance(alpha, (int, float)) or not isinstance(dropout, (int, float)) or r < 1:
        raise refuse(key, f"{file}: invalid among r {r!r}, lora_alpha {alpha!r}, lora_dropout {dropout!r}", COPY_AGAIN)
    if values.get("use_rslora"):
        alpha = alpha * math.sqrt(r)  # rsLoRA: scale = alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732)
    return Lora(r, float(alpha), float(dropout), modules)


def _read_record(directory: Path, factors: Mapping[str, NDArray], key: str) -> tuple[str | None, str | None]:
    """The base model's SHA-256 and the prompt format from adapter.json; None, None without that file."""
    file = directory / ADAPTER_FILE
    if not file.is_file():
        return None, None
    values = read_json(file, key)
    refuse_other_format(file, values, FORMAT, VERSION)
    try:
        hashes, base, template = values["tensors"], values["base"]["sha256"], values["template"]
        changed = [name for name, array in factors.items() if hashes.get(PREFIX + name) != sha256_of(array)]
    except (KeyError, TypeError, AttributeError) as error:
        raise refuse(str(file), f"damaged: {error!r}", COPY_AGAIN) from error
    if changed or len(hashes) != len(factors):
        names = _shortened(changed) or "other tensors"
        what = f"{directory / ADAPTER_WEIGHTS_FILE} has changed since it was written (SHA-256 differs: {names})"
        raise refuse(key, what, COPY_AGAIN)
    return base, template_path(directory, template)


def sha256_of(array: NDArray[np.float32]) -> str:
    """SHA-256 (hex) of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()  # type: ignore[arg-type]  # an array is a buffer


def refuse_unfitting(adapter: Adapter, config: LlamaConfig, key: str) -> None:
    """Raise Refused if the factors don't fit a model of this shape."""
    wanted = factor_shapes(config, adapter.lora)
    found = {name: array.shape for name, array in adapter.factors.items()}
    if found == wanted:
        return
    lists = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(wanted[name])}"
            for name in wanted
            if found.get(name, wanted[name]) != wanted[name]
        ],
    }
    differences = "; ".join(f"{len(names)} {word} ({_shortened(names)})" for word, names in lists.items() if names)
    raise refuse(key, f"{adapter.path} doesn't fit the model: {differences}", "give the model that it was trained on")


def _shortened(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (", …" if len(names) > MAX_NAMES_SHOWN else "")
