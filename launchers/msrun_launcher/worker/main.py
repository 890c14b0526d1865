"""A worker process: `python -P worker/main.py DIRECTORY`, started by the launcher or, once a rank, by msrun.

Without an argument it is a spare one (parent/spare.py): it imports and waits until its launcher names the directory.

msrun starts its scheduler with this same command. The package is not importable before sys.path is the launcher's,
hence the imports inside the functions.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msrun_launcher.exchange import End, Job


def main(directory: Path) -> int:
    start = json.loads((directory / "start.json").read_bytes())
    sys.path[:] = start["sys_path"]
    from msrun_launcher import exchange
    from msrun_launcher.worker import guard

    for name in start["unset"]:
        os.environ.pop(name, None)
    is_scheduler = os.environ.get("MS_ROLE") == "MS_SCHED"
    if is_scheduler and start["node"] != 0:  # of two nodes that are one machine, each has the master's address
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

        init()  # returns when the workers have found each other; leaving Python waits for them to end
        return 0
    end, code = _run(directory, rank)
    _flush()
    exchange.write_end(directory, member, end)
    return code


def _when_needed() -> Path:
    """A spare worker's start: two lines on stdin, what to import and then the job. Their end is the launcher's."""
    import contextlib
    import importlib

    start = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = start["sys_path"]
    for module in start["modules"]:
        with contextlib.suppress(Exception):  # the job will meet it again, and tell
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


def _run(directory: Path, rank: int) -> "tuple[End, int]":
    """Run the task; how it ended, and the exit code."""
    from msrun_launcher.exchange import End
    from msrun_launcher.signals import Terminated

    job = None
    try:
        job = _load(directory, rank)
        value = job.task_function(job.config)
        # The other ranks' values are not asked for; they may be large or unpicklable.
        return End("completed", time.monotonic(), value=_dumps(value if rank == job.first_rank else None)), 0
    except Terminated:
        return End("terminated", time.monotonic(), what="ended by SIGTERM"), 143
    except SystemExit as leave:
        if leave.code is None or leave.code == 0:
            return End("completed", time.monotonic(), value=_dumps(None)), 0
        if not isinstance(leave.code, int):
            return End("exited", time.monotonic(), what=f"sys.exit({leave.code!r})"), 1
        return End("exited", time.monotonic(), what=f"exit code {leave.code}"), leave.code
    except BaseException as error:
        text = _task_traceback(error)
        if job is None or job.many:  # its log is a file that should tell the story by itself
            print(text, file=sys.__stderr__)  # the launcher will show it
        what = traceback.format_exception_only(error)[-1].strip()
        return End("raised", time.monotonic(), what=what, traceback=text, exception=_dumps_or_none(error)), 1


def _load(directory: Path, rank: int) -> "Job":
    import pickle

    from hydra.core.singleton import Singleton

    from msrun_launcher import exchange

    job: Job = pickle.loads((directory / "job.pkl").read_bytes())
    Singleton.set_state(job.singletons)
    if job.many:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a file, yet it is read as it grows
    if job.many and rank == job.first_rank:
        sys.stdout = _Tee(sys.stdout, directory / exchange.SHOWN[0])
        sys.stderr = _Tee(sys.stderr, directory / exchange.SHOWN[1])
    _configure_logging(job, rank)
    return job


class _Tee:
    """A stream of Python's: what is written there goes to a second file, too, which the launcher shows as its own.

    What libraries print beside Python, such as MindSpore's INFO lines, stays in the log.
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
    """As Hydra does it in a job; the job's log file belongs to rank 0, the others have their output's file."""
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

    # The signal reaches the main thread, where the task runs, whether that is in Python or deep in a library.
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
    except Exception:  # whatever a foreign __reduce__ raises: the message and the traceback remain
        return None


def _flush() -> None:
    import logging

    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else _when_needed()))
