"""Dry runs of the product's command line, shared by the tests of a session: each takes some ten seconds."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from dryrun import DryRun, Table, dry_run, product, why_not


@pytest.fixture(scope="session")
def cards() -> None:
    """Skips, with the reason, where there are no dry runs."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def table() -> Table:
    return Table.read()


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs / NAME is the output_dir of the run of that name."""
    return tmp_path_factory.mktemp("ascend")


@pytest.fixture(scope="session")
def command(cards: None, outputs: Path) -> Callable[..., DryRun]:
    """command(NAME, *overrides) -> what came of python -m dscoder_exp; the same one is run once a session."""
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
