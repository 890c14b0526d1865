"""Configurations for the tests of tracking."""

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from dscoder_exp.schema.config import Config, TrackingConfig

YAML = "name: demo\nseed: 1\n"  # in place of a resolved configuration


def tracking(uri: str, run_id: str | None = None) -> TrackingConfig:
    return TrackingConfig(enabled=True, uri=uri, experiment="demo", run_id=run_id, parent_run_id=None)


def some_config(uri: str) -> Config:
    """A whole configuration with a simple value of the right type for every key."""
    config = _filled(Config)
    config.name = "demo"
    config.tracking = tracking(uri)
    return config


def _filled(schema: type) -> Any:
    hints = get_type_hints(schema)
    return schema(**{item.name: _value(hints[item.name], item.name) for item in fields(schema)})


def _value(hint: Any, name: str) -> Any:
    if type(None) in get_args(hint):
        return None
    if isinstance(hint, type) and is_dataclass(hint):
        return _filled(hint)
    return {
        int: 1,
        float: 0.5,
        bool: True,
        str: name,
        list[str]: ["é", 'b "c"'],
        list[int]: [7],
        list[float]: [0.9, 0.95],
    }[hint]
