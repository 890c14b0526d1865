"""The launch: compose all jobs, ask the application, then run them one after another."""

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
from msrun_launcher.parent.job import run_one
from msrun_launcher.parent.traces import SweepTraces
from msrun_launcher.settings import check_literal_settings, check_settings
from msrun_launcher.signals import Signals

log = logging.getLogger(__name__)


class NoLifecycle:
    """For applications that name none."""

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None: ...

    def before_job(self, config: DictConfig) -> None: ...

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None: ...

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None: ...


def launch(
    job_overrides: Sequence[Sequence[str]],
    *,
    first_number: int,
    root: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    lifecycle_path: Optional[str],
    traces: SweepTraces,
) -> Sequence[JobReturn]:
    """One JobReturn per list of overrides, in order. A failed job does not keep later ones from running.

    Args:
        job_overrides: each job's, beside what `root` was composed from.
        first_number: the first job's, in a sweep that is launched in several batches.
        root: the sweep's whole config.
        lifecycle_path: dotted path of the application's Lifecycle; None where it has none.
        traces: what the sweeper wrote, removed where the launch is refused.

    Raises:
        BadLauncherConfig, KeyboardInterrupt, Terminated, and what the application's before_launch raises.
    """
    setup_globals()
    configure_log(root.hydra.hydra_logging, root.hydra.verbose)
    signals = Signals()
    outcomes: list[JobOutcome] = []
    runs: list[JobReturn] = []
    with signals.handled(), spare.dropped_at_the_end():
        with traces.removed_on_refusal():
            configs = [
                _compose(context, root, overrides, first_number + position)
                for position, overrides in enumerate(job_overrides)
            ]
            check_literal_settings(configs)
            lifecycle = _lifecycle(lifecycle_path)
            lifecycle.before_launch(configs, job_overrides)
        try:
            with traces.removed_on_refusal():
                check_settings(configs)
            for config, overrides in zip(configs, job_overrides, strict=True):
                if len(configs) > 1:
                    log.info("\t#%s : %s", config.hydra.job.num, " ".join(filter_overrides(overrides)))
                runs.append(run_one(context, task, config, lifecycle, signals, outcomes))
                configure_log(root.hydra.hydra_logging, root.hydra.verbose)
        finally:
            lifecycle.after_launch(outcomes)
    return runs


def _lifecycle(path: Optional[str]) -> Lifecycle:
    if path is None:
        return NoLifecycle()
    try:
        return pkgutil.resolve_name(path)()
    except (ImportError, AttributeError, ValueError) as error:
        raise BadLauncherConfig([f"hydra.launcher.lifecycle={path}: {error}"]) from error


def _compose(context: HydraContext, root: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    """A job's config, its output directory filled in as run_job will do it again."""
    config = context.config_loader.load_sweep_config(root, list(overrides))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    with current_job(config):
        directory = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)).absolute()
    with open_dict(config.hydra.runtime), read_write(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(directory)
    return config
