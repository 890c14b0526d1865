"""What the `adapter` group adds to a model: LoRA factors to train, or an adapter to merge into the weights."""

from __future__ import annotations

from dataclasses import replace

from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.schema.llama import LlamaConfig, Lora, lora_of
from dscoder_exp.storage.file_names import ADAPTER_FILE
from dscoder_exp.weights.lora.adapter import BASE_PROBE, Adapter, Factors, read_adapter, refuse_unfitting, sha256_of
from dscoder_exp.weights.names import factor_shapes
from dscoder_exp.weights.random_init import random_factors, random_tensor
from dscoder_exp.weights.resolve import OpenedModel, open_model

PATH = "adapter.path"


def trained_lora(config: Config) -> Lora | None:
    """LoRA's settings if the task trains with adapter=lora; else None."""
    return lora_of(config.adapter) if config.task.name == "train" else None


def open_adapted(config: Config) -> OpenedModel:
    """Open the model of the `model` group with the adapter of adapter.path, if one is given.

    Raises:
        Refused: as `open_model` and `open_adapter` do; or adapter=lora has settings other than the adapter's.
    """
    opened = open_model(config.model)
    if config.adapter.path is None:
        return opened
    adapter = open_adapter(config.adapter.path, PATH, opened, config.seed)
    if (lora := trained_lora(config)) is not None:
        _refuse_uneven(adapter, opened.config)
        _refuse_other_factors(adapter, lora)
    return opened.with_adapter(adapter)


def open_adapter(path: str, key: str, opened: OpenedModel, seed: int = 0) -> Adapter:
    """Read an adapter, and check that it belongs to the model.

    Args:
        key: the config key that held `path`.
        seed: seed of the weights, for a model without a source.

    Raises:
        Refused: as `read_adapter` does; or its factors don't fit the model, or were trained on another base model.
    """
    adapter = read_adapter(path, key)
    refuse_unfitting(adapter, opened.config, key)
    refuse_other_base(adapter, opened, seed, key)
    return adapter


def refuse_other_base(adapter: Adapter, opened: OpenedModel, seed: int, key: str) -> None:
    """Raise Refused if the adapter records another base model; reads one tensor of the weights."""
    if adapter.base is None:
        return
    source = opened.source
    if source is None or BASE_PROBE not in source.shapes():
        base = sha256_of(random_tensor(opened.config, seed, BASE_PROBE))
    else:
        base = sha256_of(source.tensor(BASE_PROBE))
    if adapter.base != base:
        weights = source.path if source else f"random weights of seed {seed}"
        what = f"{adapter.path} was trained on a base model other than {weights}"
        raise refuse(key, what, f"give the base model that its {ADAPTER_FILE} names")


def first_factors(config: Config, opened: OpenedModel, lora: Lora) -> Factors:
    """Initial factors of a training: those of adapter.path, or else A random and B zero, so that B A is zero."""
    if opened.adapter is not None:
        return Factors(lora, opened.adapter.factors)
    return Factors(lora, dict(random_factors(opened.config, lora, config.seed)))


def _refuse_uneven(adapter: Adapter, config: LlamaConfig) -> None:
    """Raise Refused unless every layer has the same factors, which is all that training knows."""
    peft, shapes = adapter.peft, {name: array.shape for name, array in adapter.factors.items()}
    scales = {peft.scale(name.partition(".lora_")[0]) for name in shapes}
    if shapes == factor_shapes(config, adapter.lora) and scales == {adapter.lora.scale}:
        return
    names = ("rank_pattern", "alpha_pattern", "layers_to_transform", "exclude_modules", "target_modules")
    field = next(name for name in names if getattr(peft, name))
    what = f"{adapter.path}: its {field} gives modules different factors, and training takes one rank for all"
    raise refuse(PATH, what, "merge it (task=convert weights.merge_adapter=DIR), and train the result")


def _refuse_other_factors(adapter: Adapter, lora: Lora) -> None:
    theirs = {name: getattr(adapter.lora, name) for name in ("r", "alpha", "target_modules")}
    problems = [
        Problem(f"adapter.{name}", f"{_shown(getattr(lora, name))}, but {adapter.path} has {_shown(value)}")
        for name, value in theirs.items()
        if value != getattr(lora, name)
    ]
    if problems:
        remedy = " ".join(f"adapter.{name}={_shown(value)}" for name, value in theirs.items())
        raise Refused([*problems[:-1], replace(problems[-1], remedy=remedy)])


def _shown(value: object) -> str:
    return f"[{','.join(value)}]" if isinstance(value, tuple) else f"{value:g}"
