"""The command line: Hydra composes the configuration, the launcher runs the task, errors become one message each.

Exit codes: 0 success; 1 a job failed; 2 bad input, nothing was started; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP.
"""

import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from dscoder_exp.device.start import set_environment
from dscoder_exp.schema.check import to_config
from dscoder_exp.schema.errors import Refused, refuse
from msrun_launcher import WorkerFailed
from msrun_launcher.settings import local_workers

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT
FULL_ERROR = "HYDRA_FULL_ERROR"
CONFIG_NAME = "config"
PROMPT_OVERRIDE = "predict.prompt="

# ${multiply:2,4} in conf/: the product of integers
OmegaConf.register_new_resolver("multiply", lambda *factors: math.prod(factors), replace=True)


def config_directory() -> Path:
    """The conf/ directory: the one inside the installed package, else the checkout's."""
    package = Path(__file__).parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def run_task(cfg: DictConfig) -> float | None:
    """Run one job's task on its typed configuration, in a worker process or, for `task.in_process`, in the parent."""
    config = to_config(cfg, launched=True)
    ranks_here = local_workers(HydraConfig.get().launcher)
    set_environment(config.runtime.threads, ranks_here)  # before the task's module imports MindSpore
    return import_module(f"dscoder_exp.tasks.{config.task.name}").run(config)


def main() -> int:
    """Run the command line; returns the exit code."""
    set_environment()  # inherited by the workers
    sys.argv[1:] = quote_prompt(sys.argv[1:])
    wants_traceback = os.environ.get(FULL_ERROR) == "1"
    os.environ[FULL_ERROR] = "1"  # otherwise Hydra prints exceptions itself and exits with 1
    run = hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=CONFIG_NAME)(run_task)
    try:
        if "hydra.mode=RUN" in sys.argv:
            raise refuse("hydra.mode", "RUN bypasses the launcher, which checks and records jobs", "leave it out")
        run()
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if wants_traceback:
            traceback.print_exc()
        message, code = _explain(error)
        print(_with_relative_paths(message), file=sys.stderr)
        return code


def _explain(error: Exception) -> tuple[str, int]:
    """The message for the user, and the exit code."""
    if isinstance(error, WorkerFailed):
        if isinstance(error.cause, Refused):  # bad input that only a worker could detect
            return str(error.cause), REFUSED
        return str(error), FAILED
    if isinstance(error, Refused):
        return str(error), REFUSED
    if (frames := _own_frames(error)) is not None:
        return "".join(traceback.format_exception(type(error), error, frames)).rstrip(), FAILED
    from dscoder_exp.preflight.command_line import explain

    return str(explain(error, sys.argv[1:], config_directory(), CONFIG_NAME)), REFUSED


def _with_relative_paths(message: str) -> str:
    """The message, with paths below the current directory made relative to it."""
    here = os.getcwd().rstrip("/")
    return message.replace(f"{here}/", "") if here else message


def quote_prompt(arguments: Sequence[str]) -> list[str]:
    """Quote the value of `predict.prompt=` for Hydra, so that commas and brackets can be typed without quotes.

    Left as it is: a value that already begins with a quote, and every argument of a sweep: its commas separate values.
    """
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return list(arguments)
    return [_quote(argument) if argument.startswith(PROMPT_OVERRIDE) else argument for argument in arguments]


def _quote(argument: str) -> str:
    text = argument.removeprefix(PROMPT_OVERRIDE)
    if not text or text[0] in "'\"":
        return argument
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation; backslashes before it are kept
    return PROMPT_OVERRIDE + QuotedString(escaped, Quote.single).with_quotes()


def _own_frames(error: Exception) -> TracebackType | None:
    """The traceback from the first frame of this package below `main`; None where the error arose in Hydra alone."""
    frames = error.__traceback__ and error.__traceback__.tb_next
    while frames is not None and not frames.tb_frame.f_globals.get("__name__", "").startswith("dscoder_exp."):
        frames = frames.tb_next
    return frames
