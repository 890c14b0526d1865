"""Config keys that hold paths. Jobs get them as absolute paths, since a worker may run in another directory."""

import os
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from dscoder_exp.schema.config import TEMPLATE_FILE, Config

PATH_KEYS = (
    "output_dir",
    "model.path",
    "tokenizer.path",
    "data.source",
    "data.output",
    "adapter.path",
    "weights.source",
    "weights.target",
    "weights.merge_adapter",
    "runtime.cache_dir",
    "predict.input",
    "predict.output",
    "compare.output",
    "evaluate.source",
    "evaluate.output",
    "evaluate.completions",
    "evaluate.baseline",
    # The name of a prompt format, or the path of a .jinja file
    "model.template",
    "data.template",
    "predict.template",
)
TEMPLATE_KEYS = tuple(key for key in PATH_KEYS if key.endswith(".template"))


def value_at(config: Config, key: str) -> Any:
    """The configuration's value at a dotted key."""
    return attrgetter(key)(config)


def with_value(config: Config, key: str, value: Any) -> Config:
    """A copy of the configuration with `value` at a dotted key of the top level or of a group."""
    group, _, name = key.rpartition(".")
    if not group:
        return replace(config, **{name: value})
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


def report_directory(config: Config) -> Path:
    """Where task=compare writes its report."""
    return Path(config.compare.output or Path(config.output_dir, "compare"))


def with_absolute_paths(config: Config) -> Config:
    """Resolve relative paths against the current directory, and `~` to the user's home directory: no shell expands the
    `~` in `output_dir=~/runs`. Addresses such as hf://OWNER/NAME are unchanged.
    """
    for key in PATH_KEYS:
        value = value_at(config, key)
        if value and _is_path(key, value):
            config = with_value(config, key, str(Path(os.path.expanduser(value)).absolute()))
    return config


def _is_path(key: str, value: str) -> bool:
    return value.endswith(TEMPLATE_FILE) if key in TEMPLATE_KEYS else "://" not in value
