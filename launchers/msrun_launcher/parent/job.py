"""One job from before_job to after_job."""

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


def run_one(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    lifecycle: Lifecycle,
    signals: Signals,
    outcomes: list[JobOutcome],
) -> JobReturn:
    """Run the job and append its outcome, whatever happens. run_job runs here, so that `.hydra/` is written once."""
    outcome = JobOutcome("killed", "stopped before it ended")
    result: Optional[JobReturn] = None
    try:
        result = run_job(
            hydra_context=context,
            task_function=_placed(task, config, _before_job(lifecycle, config), signals),
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
        outcome = _failed(error)
        raise
    finally:
        outcomes.append(_after_job(lifecycle, config, outcome, result))
        _tell(config, outcomes)


def _before_job(lifecycle: Lifecycle, config: DictConfig) -> Optional[Exception]:
    try:
        with current_job(config):
            lifecycle.before_job(config)
    except Exception as error:
        return error
    return None


def _after_job(
    lifecycle: Lifecycle, config: DictConfig, outcome: JobOutcome, result: Optional[JobReturn]
) -> JobOutcome:
    """Tell the application. What it raises fails a job that had completed, and is logged beside another failure."""
    try:
        with current_job(config):
            lifecycle.after_job(config, outcome)
    except Exception as error:
        if result is None or outcome.status != "completed":
            log.exception("after_job failed")
            return outcome
        result.status, result.return_value = JobStatus.FAILED, error
        return _failed(error)
    return outcome


def _placed(task: TaskFunction, config: DictConfig, refusal: Optional[Exception], signals: Signals) -> TaskFunction:
    """The task as run_job is to call it: here, or in worker processes."""

    @functools.wraps(task)
    def run(task_config: Any) -> Any:
        if refusal is not None:
            raise refusal
        settings = read_settings(config)
        if settings.in_process:
            return _in_process(task, task_config)
        from msrun_launcher.parent.run import run_in_workers

        return run_in_workers(task, task_config, settings, signals)

    return run


def _in_process(task: TaskFunction, task_config: Any) -> Any:
    """sys.exit in a task means the same here as in a worker: it ends the job, not the sweep."""
    try:
        return task(task_config)
    except Terminated:
        raise
    except SystemExit as leave:
        if leave.code is None or leave.code == 0:
            return None
        raise WorkerFailed(f"the task ended with sys.exit({leave.code!r})", rank=0, cause=leave) from leave


def _outcome(result: JobReturn) -> JobOutcome:
    if result.status == JobStatus.COMPLETED:
        return JobOutcome("completed")
    return _failed(result._return_value)  # return_value raises it


def _failed(error: BaseException) -> JobOutcome:
    if isinstance(error, WorkerFailed):
        return JobOutcome("failed", str(error), error.rank, error.log)
    return JobOutcome("failed", "".join(traceback.format_exception(error)).rstrip())


def _tell(config: DictConfig, outcomes: list[JobOutcome]) -> None:
    """Log a failure: one line of it where Hydra will show the rest, which it does for a sweep's first one only."""
    outcome = outcomes[-1]
    if outcome.error is None:
        return
    text = outcome.error
    if sum(other.status == "failed" for other in outcomes) == 1:
        # A traceback says it in its last line that isn't indented: the lines of a message may be.
        lines = [line for line in text.splitlines() if line and not line[0].isspace()]
        text = lines[-1] if text.startswith("Traceback") else lines[0]
    log.error("job #%s %s: %s", config.hydra.job.num, outcome.status, text)
