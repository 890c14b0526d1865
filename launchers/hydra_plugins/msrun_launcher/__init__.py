"""Hydra launcher `msrun`: each job in fresh worker processes, many ranks through MindSpore's msrun.

Hydra executes every module here whose name has no leading underscore at each start, this one and modules that were
imported before included. So those stay light, and classes that an application catches or compares are defined in
underscore modules: executed twice, they would be two classes.
"""

from hydra_plugins.msrun_launcher._failures import BadLauncherConfig, WorkerFailed
from hydra_plugins.msrun_launcher._lifecycle import JobOutcome, Lifecycle, current_job
from hydra_plugins.msrun_launcher._spare import warm_up

__all__ = ["BadLauncherConfig", "JobOutcome", "Lifecycle", "WorkerFailed", "current_job", "warm_up"]
