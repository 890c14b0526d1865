from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import Client
from hub_server import Hub, serve


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(tmp_path, hub.url)
