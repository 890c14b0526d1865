"""What two nodes' launchers tell each other, over real connections in this process; test_launcher_nodes.py has three
real pairs of them.
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
from msrun_launcher.nodes.protocol import Nodes, nodes_of
from msrun_launcher.signals import Terminated

GUARD = 30.0  # seconds until a node that waits for ever is given up
Work = Callable[[Nodes], None]


def completes(nodes: Nodes) -> None:
    """The node's ranks are through at once."""


def works(nodes: Nodes) -> None:
    """Its ranks have enough to do."""
    deadline = time.monotonic() + GUARD
    while time.monotonic() < deadline:
        nodes.poll()
        time.sleep(0.01)


def ends_by(error: BaseException, after: float = 0.0) -> Work:
    def work(nodes: Nodes) -> None:
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
        self, number: int, work: Work = completes, job: int = 0, arguments: Sequence[str] = ()
    ) -> "Future[BaseException | None]":
        """What the job ends with on this node, as parent/run.py runs it; None: all nodes have completed."""
        settings = MsrunLauncherConf(**self._common, node_rank=number)

        def run() -> BaseException | None:
            try:
                with nodes_of(settings, job, arguments) as nodes:
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
        return [node.result(GUARD) for node in (self.node(0, first), self.node(1, second))]


@pytest.fixture
def pair(free_port: Callable[[], int]) -> Pair:
    return Pair(free_port())


def test_both_complete(pair: Pair) -> None:
    assert pair.both(completes, completes) == [None, None]


@pytest.mark.parametrize("node", [0, 1])
def test_a_failure_ends_both_with_its_words_and_its_log(pair: Pair, node: int) -> None:
    failure = WorkerFailed("rank 1 failed: boom\n  a traceback", rank=1)
    work = [ends_by(failure), works]
    for ended in pair.both(*(work if node == 0 else reversed(work))):
        assert isinstance(ended, WorkerFailed)
        assert (str(ended), ended.rank, ended.hangs) == ("rank 1 failed: boom\n  a traceback", 1, False)


@pytest.mark.parametrize("node", [0, 1])
def test_of_two_failures_the_earlier_one_counts(pair: Pair, node: int) -> None:
    """Whichever is told first: a rank that waited for the failed one may fail, too."""
    now = time.monotonic()
    early, late = WorkerFailed("the cause", at=now - 2), WorkerFailed("what follows from it", at=now - 1)
    work = [ends_by(early, after=0.1), ends_by(late)]
    assert [str(ended) for ended in pair.both(*(work if node == 0 else reversed(work)))] == ["the cause"] * 2


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_is_through_waits_for_the_other(pair: Pair, node: int) -> None:
    work = [ends_by(WorkerFailed("rank 0 failed: late"), after=0.5), completes]
    assert [str(ended) for ended in pair.both(*(work if node == 0 else reversed(work)))] == ["rank 0 failed: late"] * 2


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_is_gone_ends_the_other(pair: Pair, node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = SystemExit()  # its process is killed: nothing is reported, and its connections are closed

    def report(self: Nodes, reason: BaseException) -> BaseException:
        return reason

    kind = protocol.FirstNode if node == 0 else protocol.OtherNode
    monkeypatch.setattr(kind, "report", report)
    work = [ends_by(gone), works]
    ended = pair.both(*(work if node == 0 else reversed(work)))
    assert f"node {node} broke its connection" in str(ended[1 - node])


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(), Terminated(signal.SIGHUP)])
def test_a_node_that_is_told_to_stop_stops_the_other(pair: Pair, node: int, stop: BaseException) -> None:
    work = [ends_by(stop), works]
    for ended in pair.both(*(work if node == 0 else reversed(work))):
        assert type(ended) is type(stop)
        assert getattr(ended, "code", None) == getattr(stop, "code", None)


def test_a_hang_is_told_with_the_ranks_of_all_nodes(pair: Pair) -> None:
    """Whoever is told first, the one that the others wait for may be on another node."""
    reports = [WorkerFailed(f"rank {rank}: no sign of life", rank=rank, hangs=True) for rank in (0, 1)]
    for ended in pair.both(ends_by(reports[0], after=0.3), ends_by(reports[1])):
        assert str(ended) == "rank 0: no sign of life\nrank 1: no sign of life"


def test_later_jobs_of_a_sweep_run_on_both(pair: Pair) -> None:
    failed = pair.both(works, ends_by(WorkerFailed("rank 1 failed: killed")))
    assert [str(ended) for ended in failed] == ["rank 1 failed: killed"] * 2
    assert [node.result(GUARD) for node in (pair.node(1, job=1), pair.node(0, job=1))] == [None, None]


def test_a_job_that_the_other_node_has_left_is_named(pair: Pair) -> None:
    ended = [pair.node(0, job=0), pair.node(1, job=1)]
    assert "job #0 has ended on node 1" in str(ended[0].result(GUARD))
    assert pair.node(0, job=1).result(GUARD) is None
    assert ended[1].result(GUARD) is None, "it asks again"


def test_nodes_that_were_started_otherwise_are_refused(pair: Pair) -> None:
    for node in (pair.node(0, arguments=["how=ok"]), pair.node(1, arguments=["how=ok", "rank=2"])):
        text = str(node.result(GUARD))
        assert "node 1 was started with something else than node 0" in text
        assert "arguments there: how=ok rank=2\n" in text
        assert "arguments here: how=ok" in text


def test_who_says_nothing_that_makes_sense_is_not_let_in(free_port: Callable[[], int]) -> None:
    port = free_port()
    pair = Pair(port)
    first = pair.node(0)
    with contextlib.ExitStack() as strangers:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"what": "stop", "signal": 15}\n', b"{}\n", b""):
            strangers.enter_context(reached(port + 1)).sendall(words)
        assert [node.result(GUARD) for node in (first, pair.node(1))] == [None, None]


def reached(port: int) -> socket.socket:
    """A connection to what will listen there."""
    deadline = time.monotonic() + GUARD
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nothing listens at {port}"
            time.sleep(0.01)


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_does_not_come_is_named(free_port: Callable[[], int], node: int) -> None:
    port = free_port()
    ended = Pair(port, time_out=1).node(node).result(GUARD)
    assert f"node {1 - node} didn't come to 127.0.0.1:{port + 1} within hydra.launcher.cluster_time_out=1 s" in str(
        ended
    )


def test_a_port_that_nodes_cannot_meet_at_fails_the_job() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] - 1
        ended = Pair(port).node(0).result(GUARD)
    place = f"hydra.launcher.master_port={port}: the next port can't be listened at: "
    assert str(ended).startswith(f"{place}Address already in use")
