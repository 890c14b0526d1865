"""Dry runs of the product's command line, shared by a session's tests, since each takes about ten seconds."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from dryrun import DryRun, Table, dry_run, product, unavailable_reason


@pytest.fixture(scope="session")
def cards() -> None:
    """Skip the test, with the reason, where this machine can't do dry runs."""
    if (reason := unavailable_reason()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def table() -> Table:
    return Table.read()


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs: outputs / NAME is the output_dir of the run NAME."""
    return tmp_path_factory.mktemp("ascend")


@pytest.fixture(scope="session")
def command(cards: None, outputs: Path) -> Callable[..., DryRun]:
    """command(NAME, *overrides) -> the dry run of python -m dscoder_exp; equal calls in a session share one run."""
    found: dict[tuple[str, ...], DryRun] = {}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MS_", "HYDRA_", "MLFLOW_"))
    }

    def run(name: str, *overrides: str) -> DryRun:
        asked = (name, *overrides)
        if asked not in found:
            own = (f"output_dir={outputs / name}", f"runtime.cache_dir={outputs / 'cache'}")
            found[asked] = dry_run(product(*overrides, *own), environment=environment, directory=outputs)
        return found[asked]

    return run
