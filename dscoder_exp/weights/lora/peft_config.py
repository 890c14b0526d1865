"""PEFT's adapter_config.json: which matrices have factors, of what rank and scale, and whether W + scale * B A is all
that the adapter computes.

Source: huggingface/peft, src/peft/tuners/lora (config.py, layer.py, variants.py) and tuners_utils.py, commit 5d602fd.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.native.manifest import COPY_AGAIN

MAX_VALUE_SHOWN = 60  # characters of a field's value in a message
EMPTY = (None, False, "", [], {})
# How A and B begin. These leave the base model as it was (layer.py, update_layer); all others take away from the base
# weights what A and B begin with, or quantise them: pissa, olora, corda, lora_ga, loftq.
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
# Fields that say how an adapter was trained, or what it belongs to; they don't change what is computed. The configs of
# eva, corda, lora_ga and loftq only count with the init_lora_weights of their name.
WITHOUT_EFFECT = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config"),
    *("task_type", "megatron_config", "megatron_core", "ensure_weight_tying", "qalora_group_size"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),
)
FIXED: Mapping[str, tuple[Any, ...]] = {"peft_type": ("LORA",), "bias": ("none",)}
READ = (
    *("alpha_pattern", "exclude_modules", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha"),
    *("lora_dropout", "r", "rank_pattern", "target_modules", "use_rslora"),
)
MERGE_WITH_PEFT = "merge it with PEFT (merge_and_unload), and use the result as model.path"
CONVERT_WITH_PEFT = "save it with PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…)"
NEVER_MERGED = "it acts only after these tokens, so no merged weights compute the same: serve it with PEFT or vLLM"


@dataclass(frozen=True)
class PeftConfig:
    """The fields of a checked adapter_config.json that say what is computed, by PEFT's names.

    Attributes:
        target_modules: names, or a pattern of whole names; None: all of which the file has factors.
        exclude_modules: the same, of modules without factors.
        layers_to_transform: layers that have factors; None: all.
        layers_pattern: names of the list of layers, before a layer's number; none: any.
        rank_pattern, alpha_pattern: pattern of a module's name -> its own r or lora_alpha.
    """

    r: int
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool
    target_modules: Sequence[str] | str | None
    exclude_modules: Sequence[str] | str
    layers_to_transform: Sequence[int] | None
    layers_pattern: Sequence[str]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    @property
    def alpha(self) -> float:
        """Scale times r of a module without patterns."""
        return self.lora_alpha * math.sqrt(self.r) if self.use_rslora else self.lora_alpha

    def rank(self, module: str) -> int:
        """Rank of the factors of a module, such as `model.layers.0.self_attn.q_proj`."""
        return _matched(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """What B A is multiplied by. rsLoRA: alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732)."""
        rank = self.rank(module)
        return _matched(self.alpha_pattern, module, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether a module has factors (PEFT's check_target_module_exists)."""
        if _named(self.exclude_modules, module):
            return False
        targets = self.target_modules
        if targets is None or not _named(targets, module):
            return False
        if isinstance(targets, str) or module in targets or not self.layers_to_transform:
            return True
        patterns = self.layers_pattern or [r"[^.]*"]
        found = next((hit for name in patterns if (hit := re.match(rf".*?\.{name}\.(\d+)\.", module))), None)
        return found is not None and int(found[1]) in self.layers_to_transform


def read_peft_config(file: Path, key: str) -> PeftConfig:
    """Read and check an adapter_config.json.

    Args:
        key: the config key that held the adapter's directory.

    Raises:
        Refused: a field changes what is computed in a way that merging can't follow (all are named), or is invalid.
    """
    values = read_json(file, key)
    problems = [
        Problem(key, f"{file}: {name} is {_shown(value)}, {what}", remedy)
        for name, value in values.items()
        if (found := _unsupported(name, value)) is not None
        for what, remedy in [found]
    ]
    if problems:
        raise Refused(problems)
    try:
        return _parsed(values)
    except (TypeError, ValueError, re.error) as error:
        raise refuse(key, f"{file}: {error}", COPY_AGAIN) from None


def _unsupported(name: str, value: Any) -> tuple[str, str] | None:
    """What is wrong with a field, and the remedy; None: nothing."""
    if name == "init_lora_weights":
        return _unsupported_start(value)
    if name in READ or name in WITHOUT_EFFECT or value in FIXED.get(name, EMPTY):
        return None
    remedy = NEVER_MERGED if name == "alora_invocation_tokens" else MERGE_WITH_PEFT
    return "which is not supported", remedy


def _unsupported_start(value: Any) -> tuple[str, str] | None:
    start = value.lower() if isinstance(value, str) else value
    if isinstance(start, str | bool | None) and start in PLAIN_STARTS:
        return None
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "lora_ga")):
        what = "so its factors belong to base weights that PEFT changed before training"
        return what, f"{CONVERT_WITH_PEFT}; or {MERGE_WITH_PEFT}"
    if start == "loftq":
        return "so its factors belong to base weights that PEFT quantised before training", MERGE_WITH_PEFT
    return "which is not known: it may belong to other base weights", MERGE_WITH_PEFT


def _parsed(values: Mapping[str, Any]) -> PeftConfig:
    """Raises TypeError, ValueError or re.error, with a message, for a field of a wrong type."""
    layers = values.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) and not isinstance(layers, bool) else layers or None
    targets, excluded = values.get("target_modules"), values.get("exclude_modules")
    if isinstance(targets, str) and targets.lower() == "all-linear":
        targets = None
    if excluded is not None and not isinstance(excluded, str):
        excluded = _list(values, "exclude_modules", str)
    found = PeftConfig(
        r=_rank("r", values.get("r")),
        lora_alpha=_number("lora_alpha", values.get("lora_alpha")),
        lora_dropout=_number("lora_dropout", values.get("lora_dropout", 0.0)),
        use_rslora=bool(values.get("use_rslora")),
        target_modules=_list(values, "target_modules", str) if isinstance(targets, list) else targets,
        exclude_modules=excluded or [],
        layers_to_transform=layers and _list({"layers_to_transform": layers}, "layers_to_transform", int),
        layers_pattern=[text] if isinstance(text := values.get("layers_pattern") or [], str) else text,
        rank_pattern={name: _rank("rank_pattern", rank) for name, rank in _pattern(values, "rank_pattern").items()},
        alpha_pattern={
            name: _number("alpha_pattern", alpha) for name, alpha in _pattern(values, "alpha_pattern").items()
        },
    )
    if targets is not None and not isinstance(targets, str | list):
        raise TypeError(f"target_modules is {targets!r}, not names")
    for text in (*found.layers_pattern, *(text for text in (targets, excluded) if isinstance(text, str))):
        re.compile(text)
    return found


def _rank(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, not a whole number from 1 on")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, not a number")
    return float(value)


def _list(values: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    if not isinstance(values[name], list) or not all(isinstance(item, kind) for item in values[name]):
        raise TypeError(f"{name} is {values[name]!r}, not a list of {'numbers' if kind is int else 'names'}")
    return values[name]


def _pattern(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise TypeError(f"{name} is {found!r}, not an object")
    for text in found:
        re.compile(text)
    return found


def _matched(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches a module's name or its end (PEFT's get_pattern_key)."""
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(found, default)


def _named(names: Sequence[str] | str, module: str) -> bool:
    """Whether a pattern matches the whole name of a module, or a list has it or its end."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}…"
