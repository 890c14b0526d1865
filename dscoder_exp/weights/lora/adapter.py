"""A LoRA adapter on disk: PEFT's adapter_config.json and adapter_model.safetensors, and our own adapter.json.

adapter.json: {format, version, base: {path, sha256}, template, tensors: {name: sha256}, lineage}. An adapter written by
PEFT has no adapter.json: its base model is unknown, so only shapes are checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dscoder_exp.hub.locate import locate
from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import MODULES, LlamaConfig, Lora
from dscoder_exp.storage.file_names import ADAPTER_CONFIG_FILE, ADAPTER_FILE, ADAPTER_WEIGHTS_FILE
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.chat_template import ModelTemplate, recorded_template, template_in
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.formats.tensor_io import NUMPY_DTYPES, from_float32, read_rows, to_float32
from dscoder_exp.weights.generation_config import GenerationConfig, generation_in
from dscoder_exp.weights.lora.peft_config import PeftConfig, read_peft_config
from dscoder_exp.weights.names import factor_names, parameter_shapes, target_name
from dscoder_exp.weights.native.manifest import COPY_AGAIN, refuse_other_format

FORMAT, VERSION = "dscoder_exp adapter", 1
BASE_PROBE = target_name(0, "k_proj")  # its SHA-256 identifies a base model: any training changes this matrix
PREFIX = "base_model.model."  # PEFT puts it before a module's name in the model
MAX_NAMES_SHOWN = 3  # per list in a message


@dataclass(frozen=True)
class Factors:
    """LoRA factors on the host: name (names.py's `factor_shapes`) -> array."""

    lora: Lora
    arrays: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory.

    Attributes:
        lora: the settings of modules that no pattern of `peft` matches; its target_modules have factors in some layer.
        peft: ranks and scales of all modules.
        factors: name (names.py) -> float32 array.
        base: SHA-256 of the base model's BASE_PROBE; None: unknown.
        template: the prompt format that it was trained with; None: unknown.
        generation: the tokens that end its answers; none: unknown.
    """

    path: Path
    lora: Lora
    peft: PeftConfig
    factors: Mapping[str, NDArray[np.float32]]
    base: str | None
    template: ModelTemplate | None
    generation: GenerationConfig

    def merge_rows(self, name: str, rows: NDArray, first: int, dtype: str) -> NDArray:
        """Merge the factors into rows of a weight: W + scale * B A. Without factors of that name, return `rows`.

        Args:
            rows: the weight's rows from `first` on, [n, in], in the stored dtype `dtype`; so is the result.
        """
        a, b = (self.factors.get(factor) for factor in factor_names(name))
        if a is None or b is None:
            return rows
        added = (b[first : first + len(rows)] * np.float32(self.peft.scale(name.removesuffix(".weight")))) @ a
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
    peft = read_peft_config(found / ADAPTER_CONFIG_FILE, key)
    if peft.target_modules is None:
        peft = replace(peft, target_modules=modules)
    lora = Lora(peft.r, peft.alpha, peft.lora_dropout, modules)
    factors = {}
    for name, entry in entries.items():
        if entry.dtype not in NUMPY_DTYPES or len(entry.shape) != 2:
            raise refuse(key, f"{file}: {name} is {entry.dtype} {list(entry.shape)}, not a LoRA factor", COPY_AGAIN)
        raw = read_rows(file, entry, 0, entry.shape[0])
        factors[name] = to_float32(raw, entry.dtype).reshape(entry.shape)
    base, template = _read_record(found, factors, key)
    return Adapter(found, lora, peft, factors, base, template, generation_in(found, (), key))


def _read_record(directory: Path, factors: Mapping[str, NDArray], key: str) -> tuple[str | None, ModelTemplate | None]:
    """The base model's SHA-256, from adapter.json if that is there, and the prompt format."""
    file = directory / ADAPTER_FILE
    if not file.is_file():
        return None, template_in(directory, key)
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
    return base, recorded_template(directory, template, key)


def sha256_of(array: NDArray[np.float32]) -> str:
    """SHA-256 (hex) of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()  # type: ignore[arg-type]  # an array is a buffer


def refuse_unfitting(adapter: Adapter, config: LlamaConfig, key: str) -> None:
    """Raise Refused if the factors don't fit a model of this shape."""
    wanted = _wanted_shapes(config, adapter.peft)
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


def _wanted_shapes(config: LlamaConfig, peft: PeftConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the factors that a model of this shape has by an adapter_config.json: A [r, in], B [out, r]."""
    matrices, shapes = parameter_shapes(config), {}
    for target in (target_name(layer, module) for layer in range(config.num_hidden_layers) for module in MODULES):
        if peft.targets(module := target.removesuffix(".weight")):
            (outputs, inputs), (a, b), rank = matrices[target], factor_names(target), peft.rank(module)
            shapes |= {a: (rank, inputs), b: (outputs, rank)}
    return shapes


def _shortened(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (", …" if len(names) > MAX_NAMES_SHOWN else "")
