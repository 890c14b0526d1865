"""What several folders of tests share."""

import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hypothesis import settings
from omegaconf.basecontainer import BaseContainer

REPOSITORY = Path(__file__).resolve().parents[1]

# Many containers turn bytecode off. Then each worker and each of several hundred commands compiles all sources anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker begins one when the others have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(trylast=True)  # the terminal reporter's summary, a wrapper around this, then shows the line
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With DSCODER_NO_SKIP=1 a run in which a test was skipped fails: what .ci/run calls passed has really run.

    pytest prints the reasons itself (-ra). It stands here because of -n: only this directory's hooks see the whole run.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("DSCODER_NO_SKIP") != "1" or reporter is None:
        return
    if skipped := len(reporter.stats.get("skipped", [])):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("")
        reporter.write_line(f"DSCODER_NO_SKIP=1: {skipped} skipped, so this run has failed", red=True)


@pytest.fixture(autouse=True)
def restored_hydra() -> Iterator[None]:
    """Composing in this process leaves Hydra's singletons set, which launchers tested later would hand to workers.

    Not by Singleton.get_state() and set_state(): those copy all schemas and look for plugins anew, 20 ms a test.
    """
    Plugins.instance()  # looked for once, not in each test that composes
    instances, resolvers = dict(Singleton._instances), dict(BaseContainer._resolvers)
    before: list[tuple[Any, dict[str, Any]]] = [(found, dict(vars(found))) for found in instances.values()]
    yield
    Singleton._instances, BaseContainer._resolvers = instances, resolvers
    for instance, values in before:
        vars(instance).clear()
        vars(instance).update(values)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty mlflow.db, for copying: MLflow takes seconds to make one, so all workers of a session share it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    store = base / "empty" / "mlflow.db"
    store.parent.mkdir(exist_ok=True)
    with (base / "empty.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not store.exists():
            from dscoder_exp.tracking.store import open_store

            made = store.with_name("made.db")
            open_store(f"sqlite:///{made}")
            made.rename(store)
    return store


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """free_port() -> a TCP port where nobody listens, nor at the next one."""

    def find() -> int:
        while True:
            with socket.socket() as first, socket.socket() as second:
                first.bind(("127.0.0.1", 0))
                port = first.getsockname()[1]
                try:
                    second.bind(("127.0.0.1", port + 1))
                except (OSError, OverflowError):
                    continue
                return port

    return find


@pytest.fixture(scope="session")
def assert_learnt_alike() -> Callable[..., None]:
    """assert_learnt_alike(found, expected, rate=lr, steps=5, rows=512, name=tensor): weights after the same steps.

    In fp32 a gradient, which is a sum over so many rows, is off by up to rows * 2^-24 of its terms' size when they are
    added in another order. AdamW divides by a gradient's own size, so a number whose gradient is as near to 0 may go
    either way, by up to the learning rate. Of a tensor's numbers about that part has such gradients: the root mean
    square of what they differ by is the rate times the root of that part, a step.
    """

    def check(found: Any, expected: Any, *, rate: float, steps: int, rows: int, name: str) -> None:
        differing = np.sqrt(np.mean(np.square(found - expected, dtype=np.float64)))
        assert differing <= rate * steps * np.sqrt(rows * 2.0**-24), name

    return check


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data that isn't in the repository: $DSCODER_SHARED, else ../shared/data beside it. Skips where there is none."""
    directory = Path(os.environ.get("DSCODER_SHARED") or REPOSITORY.parent / "shared" / "data")
    if not directory.is_dir():
        pytest.skip(f"no shared data at {directory}; DSCODER_SHARED names another place")
    return directory
