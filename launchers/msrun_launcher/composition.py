"""Hydra composes a command line four times before its job begins: here twice, 0.2 s of a processor less.

It composes to read hydra.mode, then for its sweeper, which composes each job to see whether that can be done; then the
launcher composes each job to run it.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig


@contextmanager
def composed_once() -> Iterator[None]:
    """In this block the same overrides, in the same mode, are composed once; each caller gets a copy.

    Files are taken not to change meanwhile. A composition that fails is tried again.
    """
    load = ConfigLoaderImpl.load_configuration
    composed: dict[tuple[Any, ...], DictConfig] = {}

    def load_once(
        self: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        key = (self, config_name, run_mode, *overrides)
        if key not in composed:
            composed[key] = load(self, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        elif validate_sweep_overrides:  # it may have been composed without
            parsed = OverridesParser.create().parse_overrides(overrides)
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        return copy.deepcopy(composed[key])

    ConfigLoaderImpl.load_configuration = load_once  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
