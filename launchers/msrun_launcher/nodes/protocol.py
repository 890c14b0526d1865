"""Coordinates one job's launchers on several nodes: they start together, and a failure or a signal on one ends all.

Node 0 listens on master_addr, at the port after the scheduler's; the other nodes connect to it. Messages are lines of
JSON with a kind and further fields:

hello    to node 0: the sender's node number, the number of nodes, the job's number and its arguments
refused  from node 0: why a node that said hello can't take part
start    from node 0: all nodes have connected
done     to node 0: all processes of the sender have completed; from node 0: those of all nodes have
failed   to node 0: a failure, and how many seconds ago it happened (the nodes' clocks differ)
end      from node 0: the failure that the job ends with, the earliest one reported in time
stop     both ways: the number of the signal that a launcher received

A lost connection counts as a failure of the other node: its launcher was killed, or its machine is down.
"""

import contextlib
import logging
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Optional

from hydra_plugins.msrun_launcher.config import MsrunLauncherConf
from msrun_launcher.failures import WorkerFailed, merge_failures
from msrun_launcher.nodes.connection import (
    TIMEOUT,
    Peer,
    decode_failure,
    encode_failure,
    signal_number,
    stop_exception,
)
from msrun_launcher.settings import master_address, master_port, node_count
from msrun_launcher.signals import Terminated

log = logging.getLogger(__name__)
POLL = 0.05  # seconds
REPORT_WINDOW = 0.3  # seconds after the first report of a failure in which node 0 waits for reports of earlier ones
HANG_REPORT_WINDOW = 5.0  # the same after a report of a hang: the other nodes first collect their ranks' stacks
SEVERAL = -1  # the node of an end that merges several nodes' reports
LOG_WAITING_AFTER = 2.0  # seconds of waiting for other nodes, after which a line is logged


class NodeGroup:
    """The nodes of a job, as one node's launcher sees them. This class is for a single node: nothing to wait for."""

    def rendezvous(self) -> None:
        """Wait until the launchers of all nodes have connected."""

    def poll(self) -> None:
        """Raise the failure or signal that ends the job if another node has reported one. Called at every poll."""

    def wait_until_done(self) -> None:
        """Report that this node's processes have completed, and wait until those of all nodes have."""

    def report(self, reason: BaseException) -> BaseException:
        """Report why this node ends, unless another node said so; returns what the job ends with on all nodes."""
        return reason


@contextmanager
def connect_nodes(settings: MsrunLauncherConf, job: int, arguments: Sequence[str]) -> Iterator[NodeGroup]:
    """The nodes of job number `job`, whose `arguments` must be the same on all of them."""
    if node_count(settings) == 1:
        yield NodeGroup()
        return
    hello = {"nodes": node_count(settings), "job": job, "arguments": list(arguments)}
    with contextlib.ExitStack() as connections:
        yield (FirstNode if settings.node_rank == 0 else OtherNode)(settings, hello, connections)


class _SeveralNodes(NodeGroup):
    """What node 0 and the others have in common."""

    def __init__(self, settings: MsrunLauncherConf, hello: dict[str, Any], connections: contextlib.ExitStack) -> None:
        self._node = settings.node_rank
        self._hello = hello
        self._connections = connections  # closes the sockets at the end
        self._address = master_address(settings), master_port(settings) + 1
        self._endpoint = f"{settings.master_addr}:{self._address[1]}"
        self._timeout = settings.cluster_time_out
        self._end_reason: Optional[BaseException] = None  # what ends the job, once another node has reported it

    def rendezvous(self) -> None:
        began, logged = time.monotonic(), False
        try:
            while missing := self._missing():
                waited = time.monotonic() - began
                if 0 <= self._timeout < waited:
                    raise WorkerFailed(f"{missing} within hydra.launcher.cluster_time_out={self._timeout} s")
                if waited > LOG_WAITING_AFTER and not logged:
                    log.info("%s yet", missing)
                    logged = True
                time.sleep(POLL)
        except BaseException as reason:
            raise self.report(reason) from None

    def _missing(self) -> str:
        """Try to connect; says which nodes have not connected, empty once all have."""
        raise NotImplementedError

    def _end(self, reason: BaseException) -> NoReturn:
        self._end_reason = reason
        raise reason


class FirstNode(_SeveralNodes):
    """Node 0, which collects the reports and decides what the job ends with."""

    def __init__(self, settings: MsrunLauncherConf, hello: dict[str, Any], connections: contextlib.ExitStack) -> None:
        super().__init__(settings, hello, connections)
        self._peers: dict[int, Peer] = {}  # by node
        self._pending: list[Peer] = []  # connected, hello not received yet
        self._done: set[int] = set()
        self._failures: list[tuple[int, WorkerFailed]] = []  # with the node
        self._first_report_at = 0.0  # time.monotonic() of the first entry of _failures
        family = socket.getaddrinfo(*self._address)[0][0]
        try:
            self._listener = connections.enter_context(socket.create_server(self._address, family=family))
        except OSError as error:
            port = self._address[1]
            where = f"hydra.launcher.master_port={port - 1}: can't listen on the next port, {port}"
            raise WorkerFailed(f"{where}: {error.strerror}") from error

    def rendezvous(self) -> None:
        super().rendezvous()
        self._send_all("start")

    def poll(self) -> None:
        self._receive()
        if self._failures and self._reports_complete():
            self._end(self._decide())

    def wait_until_done(self) -> None:
        while len(self._done) < len(self._peers):
            self.poll()
            time.sleep(POLL)
        self._send_all("done")

    def report(self, reason: BaseException) -> BaseException:
        if reason is self._end_reason:
            return reason
        if isinstance(reason, (KeyboardInterrupt, Terminated)):
            self._send_all("stop", signal=signal_number(reason))
            return reason
        own = reason if isinstance(reason, WorkerFailed) else WorkerFailed(f"{reason!r}")
        self._add_failure(0, own)
        while not self._reports_complete():
            try:
                self._receive()
            except (KeyboardInterrupt, Terminated) as stop:
                return stop
            time.sleep(POLL)
        decided = self._decide()
        return reason if decided is own else decided

    def _missing(self) -> str:
        while select.select([self._listener], [], [], 0)[0]:
            connection = self._connections.enter_context(self._listener.accept()[0])
            self._pending.append(Peer(connection))
        for newcomer in list(self._pending):
            for message in newcomer.receive():
                self._pending.remove(newcomer)
                self._admit(newcomer, message)
                break
            if newcomer.closed and newcomer in self._pending:
                self._pending.remove(newcomer)
        self.poll()
        names = [str(node) for node in range(1, self._hello["nodes"]) if node not in self._peers]
        if not names:
            return ""
        return f"node{'s' if len(names) > 1 else ''} {', '.join(names)} didn't connect to {self._endpoint}"

    def _admit(self, peer: Peer, message: dict[str, Any]) -> None:
        """Admit a node by its hello. If its job or its arguments differ, the mismatch is reported on both nodes."""
        node, job, own = message.pop("node", None), message.get("job"), self._hello
        if message.pop("kind") != "hello" or not isinstance(node, int) or not isinstance(job, int):
            return
        if node in self._peers:
            peer.send("refused", why=f"a launcher with hydra.launcher.node_rank={node} is connected already")
        elif job < own["job"]:
            peer.send("refused", why=f"job #{job} has ended on node 0")
        elif job > own["job"]:  # that node will connect again, for its job
            raise WorkerFailed(f"job #{own['job']} has ended on node {node}")
        elif message == own:
            self._peers[node] = peer
        else:
            why = f"node {node} was started with other settings than node 0"
            for name in own:
                if message.get(name) != own[name]:
                    why += f"\n  {name} on node {node}: {_text(message.get(name))}"
                    why += f"\n  {name} on node 0: {_text(own[name])}"
            peer.send("refused", why=why)
            raise WorkerFailed(why)

    def _receive(self) -> None:
        for node, peer in self._peers.items():
            for message in peer.receive():
                self._handle(node, message)
            if peer.closed and node not in self._done and all(node != failed for failed, _ in self._failures):
                self._add_failure(node, _lost(node))

    def _handle(self, node: int, message: dict[str, Any]) -> None:
        if message["kind"] == "done":
            self._done.add(node)
        elif message["kind"] == "failed":
            self._add_failure(node, decode_failure(message))
        elif message["kind"] == "stop":
            self._send_all("stop", signal=message["signal"])
            self._end(stop_exception(message["signal"]))

    def _add_failure(self, node: int, failure: WorkerFailed) -> None:
        self._first_report_at = self._first_report_at or time.monotonic()
        self._failures.append((node, failure))

    def _reports_complete(self) -> bool:
        """Whether all nodes have reported a failure, or the time for further reports is over."""
        limit = HANG_REPORT_WINDOW if any(failure.hangs for _, failure in self._failures) else REPORT_WINDOW
        return len(self._failures) > len(self._peers) or time.monotonic() - self._first_report_at > limit

    def _decide(self) -> WorkerFailed:
        """The earliest failure, or all reports of a hang merged; sends it to all nodes."""
        node, failure = min(self._failures, key=lambda entry: entry[1].at)
        reports = [found for _, found in sorted(self._failures, key=lambda entry: entry[0]) if found.hangs]
        if failure.hangs and len(reports) > 1:
            node, failure = SEVERAL, merge_failures(reports)
        self._send_all("end", node=node, **encode_failure(failure))
        return failure

    def _send_all(self, kind: str, **fields: Any) -> None:
        for peer in self._peers.values():
            peer.send(kind, **fields)


class OtherNode(_SeveralNodes):
    """Any other node, which reports to node 0 and follows its decisions."""

    def __init__(self, settings: MsrunLauncherConf, hello: dict[str, Any], connections: contextlib.ExitStack) -> None:
        super().__init__(settings, hello, connections)
        self._first: Optional[Peer] = None  # node 0
        self._started = False
        self._all_done = False
        self._own_failure = False  # whether the job ends with a failure that this node reported

    def poll(self) -> None:
        if self._first is None:
            return
        for message in self._first.receive():
            self._handle(message)
        if self._first.closed and not self._all_done:
            if self._started:
                self._end(_lost(0))
            self._first = None  # the connection was an earlier job's: connect again

    def wait_until_done(self) -> None:
        assert self._first is not None
        self._first.send("done")
        while not self._all_done:
            self.poll()
            time.sleep(POLL)

    def report(self, reason: BaseException) -> BaseException:
        if reason is self._end_reason or self._first is None:
            return reason
        if isinstance(reason, (KeyboardInterrupt, Terminated)):
            self._first.send("stop", signal=signal_number(reason))
            return reason
        own = reason if isinstance(reason, WorkerFailed) else WorkerFailed(f"{reason!r}")
        self._first.send("failed", **encode_failure(own))
        deadline = time.monotonic() + TIMEOUT + (HANG_REPORT_WINDOW if own.hangs else 0)
        while time.monotonic() < deadline and self._first is not None:
            try:
                self.poll()
            except (WorkerFailed, KeyboardInterrupt, Terminated) as decided:
                return reason if self._own_failure else decided
            time.sleep(POLL)
        return reason

    def _missing(self) -> str:
        if self._first is None:
            with contextlib.suppress(OSError):
                connection = socket.create_connection(self._address, timeout=TIMEOUT)
                self._first = Peer(self._connections.enter_context(connection))
                self._first.send("hello", node=self._node, **self._hello)
        self.poll()
        if self._first is None:
            return f"node 0 didn't accept a connection at {self._endpoint}"
        return "" if self._started else "other nodes didn't connect to node 0"

    def _handle(self, message: dict[str, Any]) -> None:
        if message["kind"] == "start":
            self._started = True
        elif message["kind"] == "done":
            self._all_done = True
        elif message["kind"] == "refused":
            self._end(WorkerFailed(message["why"]))
        elif message["kind"] == "stop":
            self._end(stop_exception(message["signal"]))
        elif message["kind"] == "end":
            self._own_failure = message["node"] == self._node
            self._end(decode_failure(message))


def _lost(node: int) -> WorkerFailed:
    return WorkerFailed(f"lost the connection to node {node}: its launcher or its machine stopped")


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
