"""Hydra, ready to compose from conf/."""

import copy
from collections.abc import Iterator

import pytest
from conf_support import CONF
from hydra import initialize_config_dir
from hydra.core.singleton import Singleton


@pytest.fixture(scope="module")
def hydra_ready() -> Iterator[None]:
    before = copy.deepcopy(Singleton.get_state())
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield
    Singleton.set_state(before)
