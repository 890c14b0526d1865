"""A LoRA adapter on disk: PEFT's adapter_config.json and adapter_model.safetensors, and ours beside them, adapter.json.

adapter.json: {format, version, base: {path, sha256}, template, tensors: {name: sha256}, lineage}. An adapter that PEFT
wrote has none; then nothing is known of the base that it belongs to, and only shapes are checked.
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
from dscoder_exp.weights.chat_template import kept
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.formats.tensor_io import STORED, from_float32, read_rows, to_float32
from dscoder_exp.weights.names import factor_names, factor_shapes, target_name
from dscoder_exp.weights.native.manifest import COPY_AGAIN, refuse_other_format

FORMAT, VERSION = "dscoder_exp adapter", 1
BASE_PROBE = target_name(0, "k_proj")  # one matrix, which any training changes: its SHA-256 tells a base from others
PREFIX = "base_model.model."  # PEFT's, before the name that a module has in the model
SHOWN = 3  # names in a message
# Keys of adapter_config.json that would change what is computed, and the values under which they don't.
PLAIN: Mapping[str, tuple[Any, ...]] = {
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
    """What LoRA trains, on the host: name (names.py's `factor_shapes`) -> array."""

    lora: Lora
    arrays: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Adapter:
    """One that was read.

    Attributes:
        factors: name (names.py) -> float32 array.
        base: SHA-256 of BASE_PROBE of the weights beside which it was trained; None: it isn't known.
        template: the prompt format that it was trained with.
    """

    path: Path
    lora: Lora
    factors: Mapping[str, NDArray[np.float32]]
    base: str | None
    template: str | None

    def merged(self, name: str, rows: NDArray, first: int, dtype: str) -> NDArray:
        """Rows `first` and after of a weight, W + scale * B A; those of a weight without factors as they are.

        Args:
            rows: [n, in] in the stored dtype `dtype`, as the result.
        """
        a, b = (self.factors.get(factor) for factor in factor_names(name))
        if a is None or b is None:
            return rows
        added = (b[first : first + len(rows)] * np.float32(self.lora.scale)) @ a
        return from_float32(to_float32(rows, dtype) + added, dtype)


def read_adapter(path: str, key: str) -> Adapter:
    """Reads all of it; it is small.

    Raises:
        Refused: no adapter lies there, it is damaged, or of a kind that isn't computed here.
    """
    found = locate(path, key)
    if not (found / ADAPTER_CONFIG_FILE).is_file() or not (found / ADAPTER_WEIGHTS_FILE).is_file():
        what = f"{path} holds no adapter: {ADAPTER_CONFIG_FILE} and {ADAPTER_WEIGHTS_FILE}"
        raise refuse(key, what, "give the directory of one, such as a checkpoint of adapter=lora")
    file = found / ADAPTER_WEIGHTS_FILE
    entries = {name.removeprefix(PREFIX): entry for name, entry in read_header(file, key).items()}
    modules = tuple(module for module in MODULES if any(f".{module}.lora_" in name for name in entries))
    lora = _lora(found / ADAPTER_CONFIG_FILE, modules, key)
    factors = {}
    for name, entry in entries.items():
        if entry.dtype not in STORED or len(entry.shape) != 2:
            raise refuse(key, f"{file}: {name} is {entry.dtype} {list(entry.shape)}, no factor", COPY_AGAIN)
        raw = read_rows(file, entry, 0, entry.shape[0])
        factors[name] = to_float32(raw, entry.dtype).reshape(entry.shape)
    base, template = _recorded(found, factors, key)
    return Adapter(found, lora, factors, base, template)


def _lora(file: Path, modules: tuple[str, ...], key: str) -> Lora:
    values = read_json(file, key)
    for name, plain in PLAIN.items():
        if values.get(name, plain[0]) not in plain:
            what = f"{file}: {name} is {json.dumps(values[name])}, which isn't built"
            raise refuse(key, what, "merge it with PEFT (merge_and_unload), and take the result as model.path")
    r, alpha, dropout = values.get("r"), values.get("lora_alpha"), values.get("lora_dropout", 0.0)
    if not isinstance(r, int) or not isinstance(alpha, (int, float)) or not isinstance(dropout, (int, float)) or r < 1:
        raise refuse(key, f"{file}: r {r!r}, lora_alpha {alpha!r}, lora_dropout {dropout!r}", COPY_AGAIN)
    if values.get("use_rslora"):
        alpha = alpha * math.sqrt(r)  # its scale is alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732)
    return Lora(r, float(alpha), float(dropout), modules)


def _recorded(directory: Path, factors: Mapping[str, NDArray], key: str) -> tuple[str | None, str | None]:
    """The base's hash and the prompt format of our own record, where there is one."""
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
        what = f"{directory / ADAPTER_WEIGHTS_FILE} isn't what was written (SHA-256; {', '.join(changed[:SHOWN])})"
        raise refuse(key, what, COPY_AGAIN)
    return base, kept(directory, template)


def sha256_of(array: NDArray[np.float32]) -> str:
    """SHA-256 (hex) of its bytes."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()  # type: ignore[arg-type]  # an array is a buffer


def refuse_unfitting(adapter: Adapter, config: LlamaConfig, key: str) -> None:
    """Raise Refused where the factors are not those of a model of this shape."""
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
    told = "; ".join(f"{len(names)} {word} ({_few(names)})" for word, names in lists.items() if names)
    raise refuse(key, f"{adapter.path} doesn't fit the model: {told}", "give the model that it was trained on")


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
