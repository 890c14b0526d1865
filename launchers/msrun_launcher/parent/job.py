"""Run one job of a launch, from before_job to after_job."""

import functools
import logging
import signal
import traceback
from typing import Any, Optional

from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from msrun_launcher.failures import WorkerFailed
from msrun_launcher.lifecycle import JobOutcome, Lifecycle, current_job
from msrun_launcher.settings import read_settings
from msrun_launcher.signals import Signals, Terminated

log = logging.getLogger(__name__)


def run_with_hooks(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    lifecycle: Lifecycle,
    signals: Signals,
    outcomes: list[JobOutcome],
) -> JobReturn:
    """Run the job with its hooks and append its outcome to `outcomes`, also when an exception is raised.

    Hydra's run_job is called in this process and not in the workers, so that `.hydra/` is written once.
    """
    outcome = JobOutcome("killed", "stopped before it ended")
    result: Optional[JobReturn] = None
    try:
        result = run_job(
            hydra_context=context,
            task_function=_wrap_task(task, config, _before_job(lifecycle, config), signals),
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        outcome = _outcome(result)
        return result
    except (KeyboardInterrupt, Terminated) as stop:
        name = "Ctrl-C" if isinstance(stop, KeyboardInterrupt) else signal.Signals(stop.number).name
        outcome = JobOutcome("killed", f"stopped by {name}")
        raise
    except BaseException as error:
        outcome = _failed_outcome(error)
        raise
    finally:
        outcomes.append(_after_job(lifecycle, config, outcome, result))
        _log_failure(config, outcomes)


def _before_job(lifecycle: Lifecycle, config: DictConfig) -> Optional[Exception]:
    """Call the hook; the exception that it raised, if any."""
    try:
        with current_job(config):
            lifecycle.before_job(config)
    except Exception as error:
        return error
    return None


def _after_job(
    lifecycle: Lifecycle, config: DictConfig, outcome: JobOutcome, result: Optional[JobReturn]
) -> JobOutcome:
    """Call the hook. Its exception fails a job that had completed; a job that had not keeps its own outcome."""
    try:
        with current_job(config):
            lifecycle.after_job(config, outcome)
    except Exception as error:
        if result is None or outcome.status != "completed":
            log.exception("after_job failed")
            return outcome
        result.status, result.return_value = JobStatus.FAILED, error
        return _failed_outcome(error)
    return outcome


def _wrap_task(
    task: TaskFunction, config: DictConfig, hook_error: Optional[Exception], signals: Signals
) -> TaskFunction:
    """The function that run_job calls: runs the task in this process or in workers, or raises before_job's error."""

    @functools.wraps(task)
    def run(task_config: Any) -> Any:
        if hook_error is not None:
            raise hook_error
        settings = read_settings(config)
        if settings.in_process:
            return _run_in_process(task, task_config)
        from msrun_launcher.parent.run import run_in_workers

        return run_in_workers(task, task_config, settings, signals)

    return run


def _run_in_process(task: TaskFunction, task_config: Any) -> Any:
    """Run the task here. As in a worker, its sys.exit ends the job, not the sweep."""
    try:
        return task(task_config)
    except Terminated:
        raise
    except SystemExit as error:
        if error.code is None or error.code == 0:
            return None
        raise WorkerFailed(f"the task ended with sys.exit({error.code!r})", rank=0, cause=error) from error


def _outcome(result: JobReturn) -> JobOutcome:
    if result.status == JobStatus.COMPLETED:
        return JobOutcome("completed")
    return _failed_outcome(result._return_value)  # the property return_value would raise the exception


def _failed_outcome(error: BaseException) -> JobOutcome:
    if isinstance(error, WorkerFailed):
        return JobOutcome("failed", str(error), error.rank, error.log)
    return JobOutcome("failed", "".join(traceback.format_exception(error)).rstrip())


def _log_failure(config: DictConfig, outcomes: list[JobOutcome]) -> None:
    """Log the last job's error: one line for a sweep's first failure, which Hydra prints in full, else all of it."""
    outcome = outcomes[-1]
    if outcome.error is None:
        return
    text = outcome.error
    if sum(other.status == "failed" for other in outcomes) == 1:
        # A traceback's message starts at its last line that isn't indented; further lines of a message may be.
        lines = [line for line in text.splitlines() if line and not line[0].isspace()]
        text = lines[-1] if text.startswith("Traceback") else lines[0]
    log.error("job #%s %s: %s", config.hydra.job.num, outcome.status, text)
