"""What several folders of tests share."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def restored_hydra() -> Iterator[None]:
    """Composing in this process leaves Hydra's singletons set, which launchers tested later would hand to workers."""
    before = copy.deepcopy(Singleton.get_state())
    yield
    Singleton.set_state(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data that isn't in the repository: $DSCODER_SHARED, else ../shared/data beside it. Skips where there is none."""
    directory = Path(os.environ.get("DSCODER_SHARED") or REPOSITORY.parent / "shared" / "data")
    if not directory.is_dir():
        pytest.skip(f"no shared data at {directory}; DSCODER_SHARED names another place")
    return directory
