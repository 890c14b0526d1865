"""What MLflow is told about a run: its params, tags and name, within MLflow's limits."""

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

PARAM_LIMIT = 6000  # characters of a param's value
TAG_LIMIT = 8000
NAME_LIMIT = 250

OVERRIDES_TAG = "overrides"
_PACKAGES = ("dscoder_exp", "mindspore", "hydra-core", "mlflow", "numpy", "tokenizers")


def shorten(text: str, limit: int) -> str:
    """Text of at most `limit` characters; what is too long loses its middle and says so."""
    if len(text) <= limit:
        return text
    mark = f"\n[… {len(text) - limit} characters and more left out …]\n"
    head = (limit - len(mark)) // 2
    tail = limit - len(mark) - head
    return text[:head] + mark + text[-tail:]


def params_of(config: Config) -> dict[str, str]:
    """Dotted key -> value as it is typed on the command line, for every leaf but `tracking` (it is where, not what)."""
    leaves = (item for item in _leaves(config, "") if not item[0].startswith("tracking."))
    return {key: param(value) for key, value in leaves}


def param(value: Any) -> str:
    """A value as it is typed on the command line: text as it is, null, true, 1e-05, ["a", "b"]."""
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
    """Where a run came from: user and git commit (MLflow's own tags), host, versions, command line, overrides."""
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
        except metadata.PackageNotFoundError:  # a source tree that was never installed
            continue
    return {key: shorten(value, TAG_LIMIT) for key, value in tags.items()}


def difference(overrides: Sequence[str], sweep_overrides: Sequence[str]) -> str:
    """What sets a sweep's job apart, such as `seq_length=128`: its overrides that the sweep as a whole doesn't have."""
    # Hydra prints the overrides of a job anew: quotes and blanks may differ from what was typed.
    common = {_bare(text) for text in sweep_overrides}
    return ", ".join(text.lstrip("+") for text in overrides if _bare(text) not in common)


def _bare(override: str) -> str:
    return override.translate(str.maketrans("", "", " '\""))
