"""A worker process: `python -P worker/main.py DIRECTORY`, started by the launcher or, one per rank, by msrun.

DIRECTORY is the job's exchange directory. Without an argument it is a spare worker (parent/spare.py), which imports
modules and waits until the launcher sends the directory.

msrun starts its scheduler with the same command. This package can't be imported before sys.path is the launcher's, so
imports are inside the functions.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msrun_launcher.exchange import Job, TaskResult


def main(directory: Path) -> int:
    start = json.loads((directory / "start.json").read_bytes())
    sys.path[:] = start["sys_path"]
    from msrun_launcher import collector, exchange, streams
    from msrun_launcher.worker import guard

    streams.protect()
    collector.skip_at_exit()
    for name in start["unset"]:
        os.environ.pop(name, None)
    is_scheduler = os.environ.get("MS_ROLE") == "MS_SCHED"
    if is_scheduler and start["node"] != 0:  # with two nodes on one machine, msrun starts a scheduler for each of them
        return 0
    rank = int(os.environ.get("RANK_ID", "0")) if "MS_ROLE" in os.environ else 0
    member = exchange.SCHEDULER if is_scheduler else exchange.member_of(rank)
    os.environ[exchange.JOB_VARIABLE] = str(directory)
    guard.exit_on_sigterm()
    guard.die_with_launcher(directory, start["grace"])
    _show_stacks_on_signal(directory / f"{member}.stack")
    exchange.write_file(directory / f"{member}.pid", str(os.getpid()).encode())
    if is_scheduler:
        from mindspore.communication import init

        init()  # returns when all workers have connected; at exit Python then waits until they end
        return 0
    result, code = _run(directory, rank)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher may stop the job now, but its result has to be written
    _flush()
    try:
        exchange.write_result(directory, member, result)
    except OSError as error:  # the disk is full; the launcher's message says so
        print(f"{error.filename or directory}: {error.strerror}", file=sys.__stderr__)
        return code or 1
    guard.exit_on_sigterm(silent=True)
    return code


def _wait_for_job() -> Path:
    """A spare worker reads two lines of JSON from stdin: modules to import, then the job; returns its directory.

    End of file instead of the second line: the launcher has died, exit.
    """
    import contextlib
    import importlib

    start = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = start["sys_path"]
    from msrun_launcher import collector

    with collector.paused():
        for module in start["modules"]:
            with contextlib.suppress(Exception):  # the job's own import raises it again
                importlib.import_module(module)
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    job = json.loads(line)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    return Path(job["directory"])


def _run(directory: Path, rank: int) -> "tuple[TaskResult, int]":
    """Run the task; returns its result and the process's exit code."""
    from msrun_launcher.exchange import TaskResult
    from msrun_launcher.signals import Terminated

    job = None
    try:
        job = _load(directory, rank)
        value = job.task_function(job.config)
        # Only the first rank's value is returned; the others may be large or unpicklable.
        return TaskResult("completed", time.monotonic(), value=_dumps(value if rank == job.first_rank else None)), 0
    except Terminated:
        return TaskResult("terminated", time.monotonic(), message="ended by SIGTERM"), 143
    except SystemExit as error:
        if error.code is None or error.code == 0:
            return TaskResult("completed", time.monotonic(), value=_dumps(None)), 0
        if not isinstance(error.code, int):
            return TaskResult("exited", time.monotonic(), message=f"sys.exit({error.code!r})"), 1
        return TaskResult("exited", time.monotonic(), message=f"exit code {error.code}"), error.code
    except BaseException as error:
        text = _task_traceback(error)
        if job is None or job.multi_rank:  # a single worker's traceback is in the launcher's message already
            print(text, file=sys.__stderr__)  # into the rank's log, not into the copy that the launcher prints
        message, exception = traceback.format_exception_only(error)[-1].strip(), _dumps_or_none(error)
        return TaskResult("raised", time.monotonic(), message, traceback=text, exception=exception), 1


def _load(directory: Path, rank: int) -> "Job":
    import pickle

    from hydra.core.singleton import Singleton

    from msrun_launcher import exchange

    job: Job = pickle.loads((directory / "job.pkl").read_bytes())
    Singleton.set_state(job.singletons)
    if job.multi_rank:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the log is read while it grows
    if job.multi_rank and rank == job.first_rank:
        sys.stdout = _Tee(sys.stdout, directory / exchange.CONSOLE_FILES[0])
        sys.stderr = _Tee(sys.stderr, directory / exchange.CONSOLE_FILES[1])
    _configure_logging(job, rank)
    return job


class _Tee:
    """A Python stream that also writes to a second file, which the launcher prints.

    Output of C++ libraries, such as MindSpore's INFO lines, goes to the log only.
    """

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream = stream
        self._copy = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")

    def write(self, text: str) -> int:
        self._copy.write(text)
        self._copy.flush()
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _configure_logging(job: "Job", rank: int) -> None:
    """Configure logging as Hydra does in a job, but only rank 0 writes the job's log file."""
    from hydra.core.utils import configure_log
    from omegaconf import OmegaConf

    config = job.logging
    if rank != 0 and config:
        handlers = config.get("handlers") or {}
        files = {name for name, handler in handlers.items() if "filename" in handler}
        config["handlers"] = {name: handler for name, handler in handlers.items() if name not in files}
        loggers = [config.get("root") or {}, *(config.get("loggers") or {}).values()]
        for logger in loggers:
            if "handlers" in logger:
                logger["handlers"] = [name for name in logger["handlers"] if name not in files]
    configure_log(OmegaConf.create(config) if config is not None else None, job.verbose)  # type: ignore[arg-type]


def _show_stacks_on_signal(path: Path) -> None:
    import faulthandler

    from msrun_launcher.exchange import STACK_SIGNAL

    # faulthandler writes from the signal handler, so that it also works while the main thread is inside a C++ library.
    faulthandler.register(STACK_SIGNAL, file=path.open("w"), all_threads=False)


def _task_traceback(error: BaseException) -> str:
    """The traceback without this file's frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _dumps(value: object) -> bytes:
    import cloudpickle

    return cloudpickle.dumps(value)


def _dumps_or_none(error: BaseException) -> "bytes | None":
    try:
        return _dumps(error)
    except Exception:  # any exception of its __reduce__; the message and the traceback remain
        return None


def _flush() -> None:
    import logging

    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else _wait_for_job()))
