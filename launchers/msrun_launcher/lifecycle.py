"""Hooks with which an application checks, prepares and records the jobs of a launch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional, Protocol

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    status: killed if the launcher's process received Ctrl-C, SIGTERM or SIGHUP while the job ran
    error: message with rank, cause, traceback and log file; None for a completed job
    rank: the rank that failed first, if a rank did
    log: the log file to read next, if there is one
    """

    status: Literal["completed", "failed", "killed"]
    error: Optional[str] = None
    rank: Optional[int] = None
    log: Optional[Path] = None


class Lifecycle(Protocol):
    """The class that hydra.launcher.lifecycle names; one instance per launch, created without arguments.

    All methods run in the launcher's process. A config is a job's full composed config, including the hydra node
    (`hydra.runtime.output_dir` is set); changes made to it reach `run_job` and the workers. `${hydra:...}` resolves to
    the job that a method is called for; in before_launch, which is called for all jobs, use `current_job`.
    """

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None:
        """Called when all jobs are composed and none has started. An exception refuses the launch, without a trace."""
        ...

    def before_job(self, config: DictConfig) -> None:
        """Called just before the job starts. An exception fails the job, which is then not started."""
        ...

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None:
        """Called for every job whose before_job was called. An exception fails the job."""
        ...

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None:
        """Called if before_launch returned; outcomes: of the jobs that were begun, in order."""
        ...


@contextmanager
def current_job(config: DictConfig) -> Iterator[None]:
    """Make `${hydra:...}` and HydraConfig.get() refer to this job's config inside the block."""
    holder = HydraConfig.instance()
    before = holder.cfg
    holder.set_config(config)
    try:
        yield
    finally:
        holder.cfg = before
