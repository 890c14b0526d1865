"""The command line: Hydra composes the configuration, the launcher runs the task, errors become one message each.

Exit codes: 0 success; 1 a job failed; 2 bad input, nothing was started; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP.
"""

import math
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import TracebackType

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dscoder_exp.device.start import set_environment
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.errors import Refused, refuse
from dscoder_exp.schema.overrides import for_hydra
from dscoder_exp.signals import ends_at_once
from dscoder_exp.storage.directory_lock import take_over
from dscoder_exp.storage.disk_space import NO_SPACE, full_disk_message
from dscoder_exp.tracking.spool import LostRecords
from msrun_launcher import WorkerFailed, collector, protect
from msrun_launcher.composition import composed_once
from msrun_launcher.settings import local_workers

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT
FULL_ERROR = "HYDRA_FULL_ERROR"
CONFIG_NAME = "config"

# In conf/: ${multiply:2,4}, the product of integers; ${join:runs,a}, a path, which a later absolute part begins anew;
# ${directory:DIR,default}, DIR as an absolute path unless it is empty; ${is_given:VALUE}, whether it isn't null.
OmegaConf.register_new_resolver("multiply", lambda *factors: math.prod(factors), replace=True)
OmegaConf.register_new_resolver("is_given", lambda value: value is not None, replace=True)
OmegaConf.register_new_resolver("join", lambda *parts: os.path.join(*map(str, parts)), replace=True)
OmegaConf.register_new_resolver(
    "directory",
    lambda chosen, default: os.path.abspath(os.path.expanduser(chosen)) if chosen else default,
    replace=True,
)


def config_directory() -> Path:
    """The conf/ directory: the one inside the installed package, else the checkout's."""
    package = Path(__file__).parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def run_task(cfg: DictConfig) -> float | None:
    """Run one job's task on its typed configuration, in a worker process or, for `task.in_process`, in the parent."""
    config = to_config(cfg, launched=True)
    ranks_here = local_workers(HydraConfig.get().launcher)
    reports = Path(config.output_dir, "mindspore")
    set_environment(config.runtime.threads, ranks_here, reports=reports)  # before the task's module imports MindSpore
    if not config.task.in_process and os.environ.get("RANK_ID", "0") == "0":
        take_over(Path(config.output_dir))
    with ends_at_once(), collector.paused():  # MindSpore, whose import must not be broken off by an exception
        task = import_module(f"dscoder_exp.tasks.{config.task.name}")
    return task.run(config)


def main() -> int:
    """Run the command line; returns the exit code."""
    protect()
    collector.skip_at_exit()
    set_environment()  # inherited by the workers
    sweep = get_args_parser().parse_known_args()[0].multirun
    sys.argv[1:] = for_hydra(sys.argv[1:], sweep=sweep)
    wants_traceback = os.environ.get(FULL_ERROR) == "1"
    os.environ[FULL_ERROR] = "1"  # otherwise Hydra prints exceptions itself and exits with 1
    run = hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=CONFIG_NAME)(run_task)
    try:
        if "hydra.mode=RUN" in sys.argv:
            raise refuse("hydra.mode", "RUN bypasses the launcher, which checks and records jobs", "leave it out")
        if "${" in os.getcwd():
            raise refuse(
                os.getcwd(), "Hydra reads ${ in a directory's name as an interpolation", "rename the directory"
            )
        try:
            with composed_once():
                run()
        finally:
            sys.stdout.flush()  # else Python does that after this, with a traceback where it can't
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if wants_traceback:
            traceback.print_exc()
        message, code = _explain(error)
        print(_with_relative_paths(message), file=sys.stderr)
        return code
    finally:
        _show_cursor()


def _show_cursor() -> None:
    """A worker that was ended while it showed a progress bar could not do it."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")
        sys.stderr.flush()


def _explain(error: Exception) -> tuple[str, int]:
    """The message for the user, and the exit code."""
    cause = error.cause if isinstance(error, WorkerFailed) else error
    if isinstance(cause, Refused):  # of a worker: bad input that it alone could detect
        return str(cause), REFUSED
    if isinstance(cause, OSError) and cause.errno in NO_SPACE:
        return full_disk_message(cause, _given_directory()), FAILED
    if isinstance(cause, LostRecords):
        return f"dscoder_exp: failed\n  - {cause}", FAILED
    if isinstance(error, WorkerFailed):
        return str(error), FAILED
    if (frames := _own_frames(error)) is not None:
        return "".join(traceback.format_exception(type(error), error, frames)).rstrip(), FAILED
    from dscoder_exp.preflight.command_line import explain

    return str(explain(error, sys.argv[1:], config_directory(), CONFIG_NAME)), REFUSED


def _given_directory() -> str | None:
    """Where Hydra writes its own files, if the command line says it: an error in writing them doesn't."""
    parser = OverridesParser.create()
    given = [text for text in sys.argv[1:] if text.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]
    return str(parser.parse_override(given[-1]).value()) if given else None


def _with_relative_paths(message: str) -> str:
    """The message, with paths below the current directory made relative to it."""
    here = os.getcwd().rstrip("/")
    return message.replace(f"{here}/", "") if here else message


def _own_frames(error: Exception) -> TracebackType | None:
    """The traceback from the first frame of this package below `main`; None where the error arose in Hydra alone."""
    frames = error.__traceback__ and error.__traceback__.tb_next
    while frames is not None and not frames.tb_frame.f_globals.get("__name__", "").startswith("dscoder_exp."):
        frames = frames.tb_next
    return frames
