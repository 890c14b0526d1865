"""Which jobs of a sweep have no run, and which runs ended badly."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from dscoder_exp.comparison.runs import ENDED_BADLY, ComparedRun
from dscoder_exp.tracking.describe import distinguishing_overrides

WHY_MISSING = {
    "RUNNING": "the sweep hasn't come to it, or its process is gone",
    "KILLED": "the sweep was stopped before it",
    "FAILED": "the sweep ended before it",
    "FINISHED": "not in the store: its run was deleted",
}


@dataclass(frozen=True)
class Absent:
    """A run without results, or a job without a run."""

    label: str
    status: str  # of the run, or "missing"
    reason: str


def absent_runs(runs: Sequence[ComparedRun], labels: Sequence[str], sweep: ComparedRun | None) -> list[Absent]:
    """The runs that failed, were stopped or have no metrics, then the sweep's jobs that have no run."""
    found = []
    for run, label in zip(runs, labels, strict=True):
        if run.status in ENDED_BADLY:
            found.append(Absent(label, run.status, run.reason or "no reason was recorded"))
        elif not run.metrics:
            found.append(Absent(label, run.status, "it has logged no metrics"))
    return found + (_missing_jobs(runs, sweep) if sweep else [])


def _missing_jobs(runs: Sequence[ComparedRun], sweep: ComparedRun) -> list[Absent]:
    done = Counter(_unquoted(run.overrides) for run in runs)
    jobs = jobs_of(sweep.overrides)
    shared = "\n".join(set.intersection(*map(set, jobs))) if jobs else ""
    why = WHY_MISSING.get(sweep.status, "")
    missing = [job for job in jobs if not done[_unquoted(job)]]
    return [Absent(distinguishing_overrides(job, shared), "missing", why) for job in missing]


def jobs_of(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep; none where they can't be parsed.

    Args:
        overrides: as create_sweep records them: `seq_length=128,256`.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        [jobs] = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except (HydraException, ValueError):
        return []
    return [list(job) for job in jobs]


def _unquoted(overrides: Sequence[str]) -> frozenset[str]:
    """The overrides without what Hydra writes differently from what was typed."""
    return frozenset(override.translate(str.maketrans("", "", " '\"")) for override in overrides)
