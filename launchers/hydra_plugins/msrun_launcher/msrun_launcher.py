"""The launcher class that Hydra discovers; the launch code is imported only when jobs are launched."""

import atexit
from collections.abc import Sequence
from typing import Any, Optional

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from msrun_launcher.parent.sweep_cleanup import SweepCleanup


class MsrunLauncher(Launcher):
    """Runs jobs one after another, each in its own worker processes. Options: MsrunLauncherConf."""

    def __init__(self, lifecycle: Optional[str], **_per_job: Any) -> None:
        # All other options are read from each job's own config: they may interpolate keys that a sweep changes.
        self.lifecycle = lifecycle
        self.config: Optional[DictConfig] = None
        self.hydra_context: Optional[HydraContext] = None
        self.task_function: Optional[TaskFunction] = None
        self.cleanup: Optional[SweepCleanup] = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.cleanup = SweepCleanup(str(config.hydra.sweep.dir))
        atexit.register(self.cleanup.remove)  # the sweeper may reject a job's config and never call launch

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from msrun_launcher.parent.launch import launch

        assert self.cleanup is not None
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        atexit.unregister(self.cleanup.remove)
        return launch(
            job_overrides,
            first_job_number=initial_job_idx,
            root=self.config,
            context=self.hydra_context,
            task=self.task_function,
            lifecycle_path=self.lifecycle,
            cleanup=self.cleanup,
        )
