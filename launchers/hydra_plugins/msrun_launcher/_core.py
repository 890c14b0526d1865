"""The launch: compose all jobs, ask the application, then run them one after another."""

import logging
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from hydra_plugins.msrun_launcher import _spare
from hydra_plugins.msrun_launcher._failures import BadLauncherConfig
from hydra_plugins.msrun_launcher._job import run_one
from hydra_plugins.msrun_launcher._lifecycle import JobOutcome, Lifecycle, current_job
from hydra_plugins.msrun_launcher._settings import refuse, refuse_literals
from hydra_plugins.msrun_launcher._signals import Signals
from hydra_plugins.msrun_launcher.msrun_launcher import MsrunLauncher

log = logging.getLogger(__name__)


class NoLifecycle:
    """For applications that name none."""

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None: ...

    def before_job(self, config: DictConfig) -> None: ...

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None: ...

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None: ...


def launch(
    launcher: MsrunLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """One JobReturn per list of overrides, in order. A failed job does not keep later ones from running.

    Raises what the application's before_launch raises, BadLauncherConfig, KeyboardInterrupt, or SystemExit(143).
    """
    root, context, task = launcher.config, launcher.hydra_context, launcher.task_function
    assert launcher.traces is not None
    assert root is not None
    assert context is not None
    assert task is not None
    setup_globals()
    configure_log(root.hydra.hydra_logging, root.hydra.verbose)
    signals = Signals()
    outcomes: list[JobOutcome] = []
    runs: list[JobReturn] = []
    with signals.handled(), _spare.dropped_at_the_end():
        with launcher.traces.removed_on_refusal():
            configs = [
                _compose(context, root, overrides, initial_job_idx + position)
                for position, overrides in enumerate(job_overrides)
            ]
            refuse_literals(configs)
            lifecycle = _lifecycle(launcher.lifecycle)
            lifecycle.before_launch(configs, job_overrides)
        try:
            with launcher.traces.removed_on_refusal():
                refuse(configs)
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
