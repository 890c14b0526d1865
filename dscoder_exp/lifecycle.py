"""Launcher callbacks: check all jobs before a launch, and create and end their MLflow runs.

conf/ names the class `Lifecycle` as hydra.launcher.lifecycle; the launcher calls it in the parent process.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import yaml
from omegaconf import DictConfig, OmegaConf

from dscoder_exp.preflight.jobs import check_jobs, sweep_overrides
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.overrides import literal
from dscoder_exp.schema.paths import PATH_KEYS, value_at
from dscoder_exp.signals import uninterrupted
from dscoder_exp.tracking import store
from dscoder_exp.tracking.connect import naming_full_store
from dscoder_exp.tracking.store import Status
from dscoder_exp.training.resume import find_resumed
from msrun_launcher import JobOutcome, warm_up

STATUS: dict[str, Status] = {"completed": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


@dataclass
class _TrackedJob:
    """A job that is recorded in MLflow."""

    config: Config
    overrides: Sequence[str]
    run_id: str | None = None  # None until before_job


def _warm_up(first: Config) -> None:
    """Let the first job's worker import MindSpore (2 s) while this process imports MLflow and opens the store."""
    threads_are_set = first.runtime.threads is not None  # MindSpore reads them at its import
    if first.tracking.enabled and not first.task.in_process and first.parallel.ranks == 1 and not threads_are_set:
        warm_up(["dscoder_exp.app", f"dscoder_exp.tasks.{first.task.name}"])


class Lifecycle:
    """Implements `msrun_launcher.Lifecycle`."""

    def __init__(self) -> None:
        self._tracked: dict[int, _TrackedJob] = {}  # by job number
        self._sweep: tuple[str, str] | None = None  # tracking URI and id of the sweep's parent run

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None:
        """Check all jobs and open the tracking stores.

        Raises:
            Refused: every problem of every job; nothing was written.
        """
        checked = check_jobs(configs, overrides)
        for node, config, job_overrides in zip(configs, checked, overrides, strict=True):
            for key in PATH_KEYS:  # now absolute, hf:// addresses with their commit
                if (value := value_at(config, key)) is not None:
                    OmegaConf.update(node, key, literal(value))
            node.tracking.uri = literal(config.tracking.uri)
            if config.tracking.enabled and node.hydra.launcher.node_rank == 0:  # the node of rank 0, which logs
                self._tracked[node.hydra.job.num] = _TrackedJob(config, job_overrides)
        _warm_up(checked[0])
        for uri in dict.fromkeys(job.config.tracking.uri for job in self._tracked.values()):
            with naming_full_store(uri):
                store.open_store(uri)

    def before_job(self, config: DictConfig) -> None:
        """Create the job's MLflow run, or take up the run it resumes, and put its id into the workers' config."""
        job = self._tracked.get(config.hydra.job.num)
        if job is None:
            return
        parent = self._sweep_run()
        resolved = yaml.safe_dump(asdict(job.config), sort_keys=False, allow_unicode=True)
        uri, resumed = job.config.tracking.uri, find_resumed(job.config)
        with uninterrupted(), naming_full_store(uri):
            if resumed and resumed.state.run_id:
                exists = store.resume_run(uri, resumed.state.run_id, resolved, resumed.state.step)
                job.run_id = resumed.state.run_id if exists else None
            if job.run_id is None:
                job.run_id = store.create_run(uri, job.config, resolved, job.overrides, parent)
        config.tracking.run_id, config.tracking.parent_run_id = job.run_id, parent

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None:
        """Set the final status of the job's MLflow run."""
        job = self._tracked.get(config.hydra.job.num)
        if job is None or job.run_id is None:
            return
        with uninterrupted(), naming_full_store(job.config.tracking.uri):
            store.end_run(job.config.tracking.uri, job.run_id, STATUS[outcome.status], outcome.error)

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None:
        """Set the final status of the sweep's parent run: KILLED or FAILED if one of its jobs was."""
        if self._sweep is None:
            return
        statuses = [outcome.status for outcome in outcomes]
        worst = next((status for status in ("killed", "failed") if status in statuses), "completed")
        failed = statuses.count("failed")
        error = f"{failed} of {len(statuses)} jobs failed" if failed else None
        with uninterrupted(), naming_full_store(self._sweep[0]):
            store.end_run(*self._sweep, STATUS[worst], error)

    def _sweep_run(self) -> str | None:
        """The id of the sweep's parent run, created before its first job; None for a single job."""
        jobs = list(self._tracked.values())
        if len(jobs) > 1 and self._sweep is None and len({job.config.tracking.uri for job in jobs}) == 1:
            config, overrides = jobs[0].config, sweep_overrides([job.overrides for job in jobs])
            uri = config.tracking.uri
            with uninterrupted(), naming_full_store(uri):
                self._sweep = uri, store.create_sweep(uri, config.tracking.experiment, config.name, overrides)
        return self._sweep[1] if self._sweep else None
