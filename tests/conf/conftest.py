"""Hydra, ready to compose from conf/."""

from collections.abc import Iterator

import pytest
from conf_support import CONF
from hydra import initialize_config_dir


@pytest.fixture(scope="module")
def hydra_ready() -> Iterator[None]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield
