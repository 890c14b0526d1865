"""What an application may do around a launch: check, prepare, and record how it ended."""

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

    status: killed where the launching process was told to end (Ctrl-C, SIGTERM) while the job ran
    error: what happened: rank, cause, traceback, log; None for a completed job
    rank: the rank that failed first, where one did
    log: the file to read next, where there is one
    """

    status: Literal["completed", "failed", "killed"]
    error: Optional[str] = None
    rank: Optional[int] = None
    log: Optional[Path] = None


class Lifecycle(Protocol):
    """Named by hydra.launcher.lifecycle and instantiated, without arguments, once a launch.

    All methods run in the launching process. A config is a job's whole composed config, Hydra's node included
    (`hydra.runtime.output_dir` is filled in); what is changed in it is what `run_job` and the workers get.
    `${hydra:...}` resolves to the job whose turn it is; before_launch has none, see `current_job`.
    """

    def before_launch(self, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]]) -> None:
        """All jobs are composed, none has started. What this raises refuses the launch, which then leaves no trace."""
        ...

    def before_job(self, config: DictConfig) -> None:
        """The job is next. What this raises fails the job, which is then not started."""
        ...

    def after_job(self, config: DictConfig, outcome: JobOutcome) -> None:
        """Called for every job whose before_job was called. What this raises fails the job."""
        ...

    def after_launch(self, outcomes: Sequence[JobOutcome]) -> None:
        """Called whenever before_launch returned; outcomes: of the jobs that were begun, in order."""
        ...


@contextmanager
def current_job(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` and HydraConfig.get() mean this job's config inside the block."""
    holder = HydraConfig.instance()
    before = holder.cfg
    holder.set_config(config)
    try:
        yield
    finally:
        holder.cfg = before
