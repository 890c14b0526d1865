"""Launch jobs: compose all of them, call the application's hooks, run the jobs one after another."""

import logging
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from msrun_launcher.failures import BadLauncherConfig
from msrun_launcher.lifecycle import JobOutcome, Lifecycle, current_job
from msrun_launcher.parent import spare
from msrun_launcher.parent.job import run_with_hooks
from msrun_launcher.parent.sweep_cleanup import SweepCleanup
from msrun_launcher.settings import check_literal_settings, check_settings
from msrun_launcher.signals import Signals

log = logging.getLogger(__name__)


class NoLifecycle:
    """The lifecycle when hydra.launcher.lifecycle is null: hooks that do nothing."""

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None: ...

    def before_job(self, config: DictConfig) -> None: ...

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None: ...

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None: ...


def launch(
    job_overrides: Sequence[Sequence[str]],
    *,
    first_job_number: int,
    root: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    lifecycle_path: Optional[str],
    cleanup: SweepCleanup,
) -> Sequence[JobReturn]:
    """Run the jobs and return one JobReturn each, in order. Jobs after a failed one still run.

    job_overrides: the overrides of each job, on top of `root`
    first_job_number: hydra.job.num of the first job; above 0 in a sweep's later batches
    root: the sweep's full config
    lifecycle_path: dotted path of the application's Lifecycle; None: none
    cleanup: removes what the sweeper wrote if the launch is refused

    Raises BadLauncherConfig, KeyboardInterrupt, Terminated, and whatever the application's before_launch raises.
    """
    setup_globals()
    configure_log(root.hydra.hydra_logging, root.hydra.verbose)
    signals = Signals()
    outcomes: list[JobOutcome] = []
    runs: list[JobReturn] = []
    with signals.handled(), spare.stopped_on_exit():
        with cleanup.on_error():
            configs = [
                _compose(context, root, overrides, first_job_number + position)
                for position, overrides in enumerate(job_overrides)
            ]
            check_literal_settings(configs)
            lifecycle = _load_lifecycle(lifecycle_path)
            lifecycle.before_launch(configs, job_overrides)
        try:
            with cleanup.on_error():
                check_settings(configs)
            for config, overrides in zip(configs, job_overrides, strict=True):
                if len(configs) > 1:
                    log.info("\t#%s : %s", config.hydra.job.num, " ".join(filter_overrides(overrides)))
                runs.append(run_with_hooks(context, task, config, lifecycle, signals, outcomes))
                configure_log(root.hydra.hydra_logging, root.hydra.verbose)
        finally:
            lifecycle.after_launch(outcomes)
    return runs


def _load_lifecycle(path: Optional[str]) -> Lifecycle:
    if path is None:
        return NoLifecycle()
    try:
        return pkgutil.resolve_name(path)()
    except (ImportError, AttributeError, ValueError) as error:
        raise BadLauncherConfig([f"hydra.launcher.lifecycle={path}: {error}"]) from error


def _compose(context: HydraContext, root: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    """A job's config with job number and output directory set, the same values that run_job will set again."""
    config = context.config_loader.load_sweep_config(root, list(overrides))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    with current_job(config):
        directory = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)).absolute()
    with open_dict(config.hydra.runtime), read_write(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(directory)
    return config
