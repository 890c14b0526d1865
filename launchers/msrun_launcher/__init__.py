"""Hydra launcher `msrun`: each job in fresh worker processes, many ranks through MindSpore's msrun.

parent/ runs in the launching process, worker/ in each rank's, nodes/ connects the launchers of several machines. Hydra
finds the launcher in hydra_plugins/msrun_launcher, whose modules it executes at each start, once more those that were
imported before: a class defined there would be two, so what an application catches or compares is defined here.
"""

from msrun_launcher.failures import BadLauncherConfig, WorkerFailed
from msrun_launcher.lifecycle import JobOutcome, Lifecycle, current_job
from msrun_launcher.parent.spare import warm_up

__all__ = ["BadLauncherConfig", "JobOutcome", "Lifecycle", "WorkerFailed", "current_job", "warm_up"]
