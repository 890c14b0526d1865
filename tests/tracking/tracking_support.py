"""Configurations and jobs for the tests of tracking."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dscoder_exp.schema.config import Config, TrackingConfig
from dscoder_exp.tracking.run import Run, open_run
from dscoder_exp.tracking.sender import Sender

YAML = "name: demo\nseed: 1\n"  # in place of a resolved configuration


def tracking(uri: str, run_id: str | None = None) -> TrackingConfig:
    return TrackingConfig(enabled=True, uri=uri, experiment="demo", run_id=run_id, parent_run_id=None)


@contextmanager
def logged(uri: str, run_id: str, output_dir: Path | None = None, *, resumed: bool = False) -> Iterator[Run]:
    """A job's run, which rank 0 logs into while the parent sends; raises LostRecords at the end of the block.

    output_dir: default: `out` in the current directory
    """
    directory = str(output_dir or Path("out").absolute())
    sender = Sender(uri, run_id, directory, resumed=resumed)
    sender.start()
    with open_run(tracking(uri, run_id), directory, 0) as run:
        yield run
    if (lost := sender.close()) is not None:
        raise lost


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
