"""A complete configuration, and copies of it with other values."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, OmegaConf

from dscoder_exp.app import config_directory
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import Config


@pytest.fixture(scope="session")
def plain() -> dict[str, Any]:
    """The default configuration as plain values, with a prompt and the model=tiny shape."""
    before = deepcopy(Singleton.get_state())
    with initialize_config_dir(version_base="1.3", config_dir=str(config_directory())):
        composed = compose("config", ["model=tiny", "output_dir=out", "predict.prompt=hello"])
    Singleton.set_state(before)
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.fixture(scope="session")
def with_values(plain: dict[str, Any]) -> Callable[..., DictConfig]:
    """with_values({"optim.lr": 1}) -> the default configuration with these keys set; unknown keys are added."""

    def changed(changes: dict[str, Any]) -> DictConfig:
        config = OmegaConf.create(deepcopy(plain))
        for key, value in changes.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        return config

    return changed


@pytest.fixture(scope="session")
def typed(with_values: Callable[..., DictConfig]) -> Callable[..., Config]:
    """typed({"optim.lr": 1}) -> the same as a typed Config."""
    plain = to_config(with_values({}))
    return lambda changes: to_config(with_values(changes)) if changes else plain
