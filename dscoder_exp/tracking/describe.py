"""A run's MLflow params, tags and name, within MLflow's limits."""

import dataclasses
import json
import platform
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from dscoder_exp.schema.bounds import bounds_of
from dscoder_exp.schema.config import Config

# Most characters of a value
PARAM_LIMIT = 6000
TAG_LIMIT = 8000
NAME_LIMIT = 250

OVERRIDES_TAG = "overrides"
_PACKAGES = ("dscoder_exp", "mindspore", "hydra-core", "mlflow", "numpy", "tokenizers")


def shorten(text: str, limit: int) -> str:
    """Shorten a text to `limit` characters by replacing its middle with a note on how much was left out."""
    if len(text) <= limit:
        return text
    mark = f"\n[… {len(text) - limit} characters and more left out …]\n"
    head = (limit - len(mark)) // 2
    tail = limit - len(mark) - head
    return text[:head] + mark + text[-tail:]


def params_of(config: Config) -> dict[str, str]:
    """Dotted key -> value as typed on the command line, for every leaf outside the group `tracking`."""
    leaves = (item for item in _leaves(config, "") if not item[0].startswith("tracking."))
    return {key: format_param(value) for key, value in leaves}


def format_param(value: Any) -> str:
    """Format a value as typed on the command line: text unquoted, null, true, 1e-05, ["a", "b"]."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(text, PARAM_LIMIT)


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{item.name}.")
        elif "filled" not in bounds_of(item):
            yield prefix + item.name, value


def tags_of(overrides: Sequence[str]) -> dict[str, str]:
    """The origin of a run: user and git commit (MLflow's own tags), host, versions, command line, overrides."""
    from mlflow.tracking.context.registry import resolve_tags

    tags = resolve_tags() | {
        "host": socket.gethostname(),
        "command": shlex.join(sys.orig_argv),
        OVERRIDES_TAG: "\n".join(overrides),
        "version.python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            tags[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:  # not installed: run from a source tree
            continue
    return {key: shorten(value, TAG_LIMIT) for key, value in tags.items()}


def distinguishing_overrides(overrides: Sequence[str], shared: str) -> str:
    """The overrides of a sweep's job that are not among the sweep's shared ones, such as `seq_length=128, seed=1`.

    Args:
        shared: OVERRIDES_TAG's text: an override a line, or several lines, as of a prompt.
    """
    # Hydra formats the overrides of a job anew: quotes and blanks may differ from what was typed.
    common = f"\n{_without_quotes(shared)}\n"
    return ", ".join(text.lstrip("+") for text in overrides if f"\n{_without_quotes(text)}\n" not in common)


def _without_quotes(override: str) -> str:
    return override.translate(str.maketrans("", "", " '\""))
