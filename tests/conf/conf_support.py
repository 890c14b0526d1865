"""Composing without a shell."""

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dscoder_exp.app import config_directory
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.config import Config

CONF = config_directory()


def composed(*overrides: str) -> DictConfig:
    """As a job gets it; needs the `hydra_ready` fixture."""
    config = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def typed(*overrides: str) -> Config:
    return to_config(composed(*overrides))


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))
