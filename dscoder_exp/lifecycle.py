"""Launcher callbacks: check all jobs before a launch, and create and end their MLflow runs.

conf/ names the class `Lifecycle` as hydra.launcher.lifecycle; the launcher calls it in the parent process.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from dscoder_exp.preflight.jobs import check_jobs, sweep_overrides
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.overrides import literal
from dscoder_exp.schema.paths import PATH_KEYS, value_at
from dscoder_exp.signals import uninterrupted
from dscoder_exp.storage.directory_lock import DirectoryLock, lock_directory
from dscoder_exp.storage.disk_space import naming_full_disk
from dscoder_exp.tracking import spool, store
from dscoder_exp.tracking.connect import connect, naming_full_store
from dscoder_exp.tracking.sender import Sender, send_left
from dscoder_exp.tracking.store import Status
from dscoder_exp.training.resume import Resumed, find_resumed, restore_copied
from dscoder_exp.training.state import waiting_metrics
from msrun_launcher import JobOutcome, collector, warm_up

log = logging.getLogger(__name__)
STATUS: dict[str, Status] = {"completed": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


@dataclass
class _Job:
    """A job that this node leads: of several nodes' launchers that of rank 0."""

    config: Config
    overrides: Sequence[str]
    lock: DirectoryLock | None = None  # of output_dir, from before_job on; the first job's from before_launch on
    run_id: str | None = None  # of its MLflow run, from before_job on
    sender: Sender | None = None  # sends what rank 0 logs, from before_job to after_job

    def hold(self) -> None:
        """Lock the output directory. Raises Refused where another command has it, DiskFull where there is no room."""
        directory = Path(self.config.output_dir)
        with naming_full_disk(directory, "output_dir"):
            self.lock = self.lock or lock_directory(directory, "output_dir")

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()
        self.lock = None


def _open_run(job: _Job, parent: str | None) -> None:
    """Take up the MLflow run of MLFLOW_RUN_ID, or the one that the job resumes, else create one; begin to send.

    Args:
        parent: the sweep's run, which MLFLOW_RUN_ID names then.
    """
    resolved = yaml.safe_dump(asdict(job.config), sort_keys=False, allow_unicode=True)
    uri, resumed = job.config.tracking.uri, find_resumed(job.config)
    chosen = None if parent else store.chosen_run()
    earlier = resumed and resumed.state.run_id
    job.run_id = chosen or earlier  # first: after_job ends it, whatever goes wrong here
    if resumed and earlier and chosen in (None, earlier):
        job.run_id = earlier if store.resume_run(uri, earlier, resolved, resumed.state.step) else None
    elif chosen:
        store.continue_run(uri, chosen, job.config, resolved, job.overrides)
    if job.run_id is None:
        job.run_id = store.create_run(uri, job.config, resolved, job.overrides, parent)
    goes_on = job.run_id == earlier
    send_left(uri, job.config.output_dir, except_run=earlier if goes_on else None)
    if resumed is not None:
        _spool_waiting(resumed, spool.spool_directory(job.config.output_dir, job.run_id))
    job.sender = Sender(uri, job.run_id, job.config.output_dir, resumed=goes_on)
    job.sender.start()


def _spool_waiting(resumed: Resumed, directory: Path) -> None:
    """Put the metrics that a checkpoint of an earlier version holds into the run's spool."""
    if not (waiting := waiting_metrics(resumed.checkpoint)):
        return
    writer = spool.Writer(directory)
    for name, value, time_ms, step in waiting:
        writer.append(spool.METRICS, values={name: value}, step=step, time_ms=time_ms)
    if (lost := writer.close()) is not None:
        raise lost


def _end_run(job: _Job, outcome: JobOutcome) -> None:
    """Send the rest of what the job has logged, and set its run's final status.

    Raises:
        LostRecords: MLflow didn't accept the rest, and the job had completed.
    """
    assert job.run_id is not None
    lost = job.sender.close() if job.sender else None
    completed, status, error = outcome.status == "completed", STATUS[outcome.status], outcome.error
    if lost and completed:
        status, error = "FAILED", str(lost)
    with contextlib.suppress(Exception) if lost else contextlib.nullcontext():  # it may not accept this, either
        store.end_run(job.config.tracking.uri, job.run_id, status, error)
    if lost and completed:
        raise lost
    if lost:
        log.error("the end of the run was not logged: %s", lost)  # the job's own error is the one to raise


def _warm_up(first: Config) -> None:
    """Let the first job's worker import MindSpore (2 s) while this process imports MLflow and opens the store."""
    threads_are_set = first.runtime.threads is not None  # MindSpore reads them at its import
    if first.tracking.enabled and not first.task.in_process and first.parallel.ranks == 1 and not threads_are_set:
        warm_up(["dscoder_exp.app", f"dscoder_exp.tasks.{first.task.name}"])


class Lifecycle:
    """Implements `msrun_launcher.Lifecycle`."""

    def __init__(self) -> None:
        self._jobs: dict[int, _Job] = {}  # by job number
        self._sweep: tuple[str, str] | None = None  # tracking URI and id of the sweep's parent run

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None:
        """Check all jobs, open the tracking stores, and lock the first job's output directory.

        Raises:
            Refused: every problem of every job; nothing was written.
        """
        checked = check_jobs(configs, overrides)
        for node, config, job_overrides in zip(configs, checked, overrides, strict=True):
            for key in PATH_KEYS:  # now absolute, hf:// addresses with their commit
                if (value := value_at(config, key)) is not None:
                    OmegaConf.update(node, key, literal(value))
            node.tracking.uri = literal(config.tracking.uri)
            if node.hydra.launcher.node_rank == 0:  # the node of rank 0, which logs and puts checkpoints together
                self._jobs[node.hydra.job.num] = _Job(config, job_overrides)
        _warm_up(checked[0])
        for uri in dict.fromkeys(job.config.tracking.uri for job in self._tracked()):
            with naming_full_store(uri), collector.paused():
                store.open_store(uri)
                connect(uri)  # imports the rest of MLflow
        for job in list(self._jobs.values())[:1]:
            job.hold()

    def before_job(self, config: DictConfig) -> None:
        """Lock its output directory, create its MLflow run or take up the one it resumes, and tell the workers its id.

        Raises:
            Refused: another command has locked the directory since the launch was checked.
        """
        job = self._jobs.get(config.hydra.job.num)
        if job is None:
            return
        job.hold()
        for message in restore_copied(job.config):
            log.warning(message)
        if not job.config.tracking.enabled:
            return
        parent = self._sweep_run()
        with uninterrupted(), naming_full_store(job.config.tracking.uri):
            _open_run(job, parent)
        config.tracking.run_id, config.tracking.parent_run_id = job.run_id, parent

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None:
        """Send the rest of what the job has logged, set its MLflow run's final status, unlock its output directory."""
        job = self._jobs.get(config.hydra.job.num)
        if job is None:
            return
        try:
            if job.run_id is not None:
                with uninterrupted(), naming_full_store(job.config.tracking.uri):
                    _end_run(job, outcome)
        finally:
            job.release()

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None:
        """Set the final status of the sweep's parent run: KILLED or FAILED if one of its jobs was."""
        for job in self._jobs.values():
            job.release()
        if self._sweep is None:
            return
        statuses = [outcome.status for outcome in outcomes]
        worst = next((status for status in ("killed", "failed") if status in statuses), "completed")
        failed = statuses.count("failed")
        error = f"{failed} of {len(statuses)} jobs failed" if failed else None
        with uninterrupted(), naming_full_store(self._sweep[0]):
            store.end_run(*self._sweep, STATUS[worst], error)

    def _tracked(self) -> list[_Job]:
        """The jobs that are recorded in MLflow."""
        return [job for job in self._jobs.values() if job.config.tracking.enabled]

    def _sweep_run(self) -> str | None:
        """The id of the sweep's parent run, created before its first job; None for a single job."""
        jobs = self._tracked()
        if len(jobs) > 1 and self._sweep is None and len({job.config.tracking.uri for job in jobs}) == 1:
            config, overrides = jobs[0].config, sweep_overrides([job.overrides for job in jobs])
            uri = config.tracking.uri
            with uninterrupted(), naming_full_store(uri):
                self._sweep = uri, store.create_sweep(uri, config.tracking.experiment, config.name, overrides)
        return self._sweep[1] if self._sweep else None
