"""Run one job's task in fresh worker processes and return its value."""

import codecs
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from hydra_plugins.msrun_launcher.config import MsrunLauncherConf
from msrun_launcher.exchange import CONSOLE_FILES, Job, search_path
from msrun_launcher.failures import WorkerFailed
from msrun_launcher.nodes.protocol import NodeGroup, connect_nodes
from msrun_launcher.parent.process_tree import ProcessTree
from msrun_launcher.parent.report import Logs, job_log
from msrun_launcher.parent.start import scheduler_port, start_child, start_msrun
from msrun_launcher.parent.watch import Watch
from msrun_launcher.settings import local_ranks, node_count
from msrun_launcher.signals import Signals

log = logging.getLogger(__name__)
GRACE_AFTER_FAILURE = 3.0  # seconds
SET_BY_MSRUN = ["OMP_NUM_THREADS"]  # to 1, by its import of MindSpore; workers unset it unless the user has set it


def run_in_workers(task: TaskFunction, config: DictConfig, settings: MsrunLauncherConf, signals: Signals) -> Any:
    """Run the task on all of this node's ranks; returns what it returned on the first of them.

    Hydra's run_job calls this in place of the task, with the job's working directory, environment and HydraConfig.
    Raises WorkerFailed. No process of the job is left on this node, however the job ends.
    """
    ranks = local_ranks(settings)
    multi_rank = settings.worker_num > 1
    node = settings.node_rank if node_count(settings) > 1 else None
    hydra: Any = HydraConfig.get()
    launch_dir = hydra.runtime.cwd  # not os.getcwd(): with hydra.job.chdir=true that is the job's output directory
    if settings.rank_table_file:
        settings = replace(settings, rank_table_file=os.path.join(launch_dir, settings.rank_table_file))
    with read_write(hydra):
        hydra.launcher = settings  # resolved: workers don't have the keys that it interpolates
    job_logging: Any = None
    if hydra.job_logging is not None:
        job_logging = OmegaConf.to_container(hydra.job_logging, resolve=True)
    log_dir = Path(launch_dir, settings.log_dir or Path(hydra.runtime.output_dir, "logs")) if multi_rank else None
    if log_dir is not None and node is not None:
        log_dir /= f"node_{node}"  # the nodes may share the directory
    job = Job(task, config, Singleton.get_state(), job_logging, hydra.verbose, ranks[0], multi_rank)
    start = {
        "sys_path": search_path(launch_dir),
        "grace": settings.grace,
        "node": settings.node_rank,
        "unset": [name for name in SET_BY_MSRUN if name not in os.environ],
    }
    with (
        _exchange_directory(job, start) as directory,
        scheduler_port(settings) as port,
        connect_nodes(settings, hydra.job.num, hydra.overrides.task) as nodes,
    ):
        nodes.rendezvous()
        if node is not None:
            log.info("node %d of %d: %s; logs in %s", node, node_count(settings), _describe(ranks), log_dir)
        root = start_child(directory) if log_dir is None else start_msrun(directory, settings, port, log_dir)
        tree = ProcessTree(root, root_is_worker=not multi_rank, directory=directory)
        watch = Watch(directory, root, ranks, Logs(log_dir, job_log(job_logging), node))
        streams = zip(CONSOLE_FILES, (sys.stdout, sys.stderr), strict=True)
        copiers = [_copier(directory / name, stream) for name, stream in streams]

        def copy_output() -> None:
            for copy in copiers:
                copy()

        try:
            _supervise(watch, tree, nodes, settings, signals, on_poll=copy_output)
        finally:
            copy_output()
        if node is not None:
            log.info("node %d of %d: all nodes have completed", node, node_count(settings))
        return watch.value(ranks[0])


def _supervise(
    watch: Watch,
    tree: ProcessTree,
    nodes: NodeGroup,
    settings: MsrunLauncherConf,
    signals: Signals,
    *,
    on_poll: Callable[[], None],
) -> None:
    """Wait until the workers of all nodes have completed, and raise the failure or signal that ends the job earlier.

    Stops all processes of the job on this node in either case.
    """

    def poll() -> None:
        on_poll()
        nodes.poll()

    try:
        watch.wait_until_done(settings.time_limit, settings.heartbeat, poll)
        nodes.wait_until_done()  # while msrun's scheduler lives: the other nodes' workers need it
    except BaseException as error:
        with signals.deferred():
            reason = nodes.report(error)
            if settings.worker_num > 1 and isinstance(reason, WorkerFailed):  # log before the grace period
                log.error("%s; the other ranks are stopped", str(reason).splitlines()[0])
            # After a failure the other ranks wait in a collective and have no consistent state to save.
            grace = min(settings.grace, GRACE_AFTER_FAILURE) if isinstance(reason, Exception) else settings.grace
            tree.add_workers(watch.pids())
            tree.stop(grace, skip_grace=lambda: signals.received)
        if reason is error:
            raise
        raise reason from None  # another node's failure or signal, which came first
    with signals.deferred():
        tree.add_workers(watch.pids())
        tree.kill()


@contextmanager
def _exchange_directory(job: Job, start: dict[str, Any]) -> Iterator[Path]:
    """Create the job's exchange directory; the pipe in it closes when this process dies. Removed at the end.

    Raises:
        WorkerFailed: the directory of temporary files is full, or can't be written.
    """
    directory = None
    try:
        try:
            directory = Path(tempfile.mkdtemp(prefix="msrun-"))
            pipe = directory / "alive"
            os.mkfifo(pipe)
            (directory / "start.json").write_text(json.dumps(start))
            (directory / "job.pkl").write_bytes(cloudpickle.dumps(job))
            writer = os.open(pipe, os.O_RDWR)  # O_WRONLY would wait for a reader; children don't inherit it
        except OSError as error:
            place = f"{directory}: " if directory else ""
            what = f"no temporary file can be written: {place}{error.strerror}"
            raise WorkerFailed(f"{what}\n  -> make room, or set TMPDIR to a directory on another disk") from error
        try:
            yield directory
        finally:
            os.close(writer)
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def _describe(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"


def _copier(path: Path, stream: TextIO) -> Callable[[], None]:
    """A function that copies to `stream` what the file, once it exists, has gained since the last call."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    position = 0

    def copy() -> None:
        nonlocal position
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(position)
            content = file.read()
        position += len(content)
        if content:
            stream.write(decoder.decode(content))
            stream.flush()

    return copy
