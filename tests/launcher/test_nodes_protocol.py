"""The protocol between two nodes, over real connections in one process.

test_launcher_nodes.py runs three pairs of real launchers.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from hydra_plugins.msrun_launcher.config import MsrunLauncherConf
from msrun_launcher.failures import WorkerFailed
from msrun_launcher.nodes import protocol
from msrun_launcher.nodes.protocol import NodeGroup, connect_nodes
from msrun_launcher.signals import Terminated

DEADLINE = 30.0  # seconds after which a test gives up on a node that still waits
Work = Callable[[NodeGroup], None]


def complete(nodes: NodeGroup) -> None:
    """The node's ranks complete at once."""


def keep_running(nodes: NodeGroup) -> None:
    """The node's ranks run until another node ends the job."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        nodes.poll()
        time.sleep(0.01)


def end_with(error: BaseException, after: float = 0.0) -> Work:
    def work(nodes: NodeGroup) -> None:
        time.sleep(after)
        raise error

    return work


class Pair:
    """Node 0 and node 1 of one job after another, each in a thread."""

    def __init__(self, port: int, time_out: int = 20) -> None:
        self._common: dict[str, Any] = {"worker_num": 2, "local_worker_num": 1, "master_addr": "127.0.0.1"}
        self._common |= {"master_port": port, "cluster_time_out": time_out}
        self._threads = ThreadPoolExecutor(2)

    def node(
        self, number: int, work: Work = complete, job: int = 0, arguments: Sequence[str] = ()
    ) -> "Future[BaseException | None]":
        """Run the node as parent/run.py does; the exception that the job ends with there, None if all completed."""
        settings = MsrunLauncherConf(**self._common, node_rank=number)

        def run() -> BaseException | None:
            try:
                with connect_nodes(settings, job, arguments) as nodes:
                    nodes.rendezvous()
                    try:
                        work(nodes)
                        nodes.wait_until_done()
                    except BaseException as error:
                        return nodes.report(error)
            except BaseException as error:
                return error
            return None

        return self._threads.submit(run)

    def both(self, first: Work, second: Work) -> list[BaseException | None]:
        return [node.result(DEADLINE) for node in (self.node(0, first), self.node(1, second))]


@pytest.fixture
def pair(free_port: Callable[[], int]) -> Pair:
    return Pair(free_port())


def test_both_complete(pair: Pair) -> None:
    assert pair.both(complete, complete) == [None, None]


@pytest.mark.parametrize("node", [0, 1])
def test_a_failure_ends_both_nodes_with_the_same_message(pair: Pair, node: int) -> None:
    failure = WorkerFailed("rank 1 failed: boom\n  a traceback", rank=1)
    work = [end_with(failure), keep_running]
    for ended in pair.both(*(work if node == 0 else reversed(work))):
        assert isinstance(ended, WorkerFailed)
        assert (str(ended), ended.rank, ended.hangs) == ("rank 1 failed: boom\n  a traceback", 1, False)


@pytest.mark.parametrize("node", [0, 1])
def test_of_two_failures_the_earlier_one_counts(pair: Pair, node: int) -> None:
    """Whichever is reported first: a rank that waited for the failed one may fail, too."""
    now = time.monotonic()
    early, late = WorkerFailed("the cause", at=now - 2), WorkerFailed("what follows from it", at=now - 1)
    work = [end_with(early, after=0.1), end_with(late)]
    assert [str(ended) for ended in pair.both(*(work if node == 0 else reversed(work)))] == ["the cause"] * 2


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_has_completed_waits_for_the_other(pair: Pair, node: int) -> None:
    work = [end_with(WorkerFailed("rank 0 failed: late"), after=0.5), complete]
    assert [str(ended) for ended in pair.both(*(work if node == 0 else reversed(work)))] == ["rank 0 failed: late"] * 2


@pytest.mark.parametrize("node", [0, 1])
def test_a_lost_node_ends_the_other(pair: Pair, node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = SystemExit()  # as if its process was killed: nothing is reported, and its connections are closed

    def report(self: NodeGroup, reason: BaseException) -> BaseException:
        return reason

    kind = protocol.FirstNode if node == 0 else protocol.OtherNode
    monkeypatch.setattr(kind, "report", report)
    work = [end_with(gone), keep_running]
    ended = pair.both(*(work if node == 0 else reversed(work)))
    assert f"lost the connection to node {node}" in str(ended[1 - node])


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(), Terminated(signal.SIGHUP)])
def test_a_signal_on_one_node_stops_the_other(pair: Pair, node: int, stop: BaseException) -> None:
    work = [end_with(stop), keep_running]
    for ended in pair.both(*(work if node == 0 else reversed(work))):
        assert type(ended) is type(stop)
        assert getattr(ended, "code", None) == getattr(stop, "code", None)


def test_a_hang_is_reported_with_the_ranks_of_all_nodes(pair: Pair) -> None:
    """The rank that the others wait for may be on another node than the one that reports first."""
    reports = [WorkerFailed(f"rank {rank}: no heartbeat", rank=rank, hangs=True) for rank in (0, 1)]
    for ended in pair.both(end_with(reports[0], after=0.3), end_with(reports[1])):
        assert str(ended) == "rank 0: no heartbeat\nrank 1: no heartbeat"


def test_later_jobs_of_a_sweep_run_on_both(pair: Pair) -> None:
    failed = pair.both(keep_running, end_with(WorkerFailed("rank 1 failed: killed")))
    assert [str(ended) for ended in failed] == ["rank 1 failed: killed"] * 2
    assert [node.result(DEADLINE) for node in (pair.node(1, job=1), pair.node(0, job=1))] == [None, None]


def test_a_job_that_has_ended_on_the_other_node_is_named(pair: Pair) -> None:
    ended = [pair.node(0, job=0), pair.node(1, job=1)]
    assert "job #0 has ended on node 1" in str(ended[0].result(DEADLINE))
    assert pair.node(0, job=1).result(DEADLINE) is None
    assert ended[1].result(DEADLINE) is None, "node 1 connects again"


def test_nodes_with_different_arguments_are_refused(pair: Pair) -> None:
    for node in (pair.node(0, arguments=["how=ok"]), pair.node(1, arguments=["how=ok", "rank=2"])):
        text = str(node.result(DEADLINE))
        assert "node 1 was started with other settings than node 0" in text
        assert "arguments on node 1: how=ok rank=2\n" in text
        assert "arguments on node 0: how=ok" in text


def test_connections_that_do_not_speak_the_protocol_are_ignored(free_port: Callable[[], int]) -> None:
    port = free_port()
    pair = Pair(port)
    first = pair.node(0)
    with contextlib.ExitStack() as connections:
        for content in (b"GET / HTTP/1.1\r\n\r\n", b'{"kind": "stop", "signal": 15}\n', b"{}\n", b""):
            connections.enter_context(connect(port + 1)).sendall(content)
        assert [node.result(DEADLINE) for node in (first, pair.node(1))] == [None, None]


def connect(port: int) -> socket.socket:
    """A connection to the port, as soon as something listens there."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.01)


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_does_not_connect_is_named(free_port: Callable[[], int], node: int) -> None:
    port = free_port()
    ended = Pair(port, time_out=1).node(node).result(DEADLINE)
    missing = "node 1 didn't connect to" if node == 0 else "node 0 didn't accept a connection at"
    assert str(ended) == f"{missing} 127.0.0.1:{port + 1} within hydra.launcher.cluster_time_out=1 s"


def test_a_port_in_use_on_node_0_fails_the_job() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] - 1
        ended = Pair(port).node(0).result(DEADLINE)
    where = f"hydra.launcher.master_port={port}: can't listen on the next port, {port + 1}: "
    assert str(ended).startswith(f"{where}Address already in use")
