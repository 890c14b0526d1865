"""Hydra launcher `msrun`: runs each job in fresh worker processes, several ranks through MindSpore's msrun.

parent/ runs in the launcher's process, worker/ in each rank's process, nodes/ connects the launchers of several
machines. Hydra discovers the launcher in hydra_plugins/msrun_launcher and executes the modules there at each start,
even those already imported, so that a class defined there can exist twice. Classes that an application catches or
compares are therefore defined here.
"""

from msrun_launcher.failures import BadLauncherConfig, WorkerFailed
from msrun_launcher.lifecycle import JobOutcome, Lifecycle, current_job
from msrun_launcher.parent.spare import warm_up
from msrun_launcher.streams import protect

__all__ = ["BadLauncherConfig", "JobOutcome", "Lifecycle", "WorkerFailed", "current_job", "protect", "warm_up"]
