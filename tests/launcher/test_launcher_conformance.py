"""Hydra's own test suite for launcher plugins."""

import pytest
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite

# The suite calls Hydra without version_base.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Future Hydra versions will no longer change working directory"),
]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("msrun", [])])
class TestMsrunLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("msrun", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])],
)
class TestMsrunLauncherBatched(BatchedSweeperTestSuite):
    pass


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra/launcher=msrun"])],
)
class TestMsrunLauncherIntegration(IntegrationTestSuite):
    pass
