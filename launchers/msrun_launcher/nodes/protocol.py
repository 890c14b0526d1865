"""The launchers of one job on several nodes: they begin together, and what ends the job on one ends it on all.

Node 0 listens at master_addr, on the port after the scheduler's; the others connect to it. They send each other lines
of JSON: what it is, and its fields.

hello    to node 0: which node of how many, the job's number, its arguments
refused  from node 0: why a node that said hello can't take part
start    from node 0: all have come
done     to node 0: all processes of a node have completed; from it: those of all nodes have
failed   to node 0: a failure, and how many seconds ago, since clocks differ
end      from node 0: what the job fails with, the earliest of what it was told in time
stop     both ways: a launcher was told to end, by this signal

What breaks a connection has failed: a launcher that was killed, or a machine.
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
from msrun_launcher.failures import WorkerFailed, together
from msrun_launcher.nodes.connection import PATIENCE, Peer, failure_of, fields_of, number_of, stop_of
from msrun_launcher.settings import master_address, master_port, node_count
from msrun_launcher.signals import Terminated

log = logging.getLogger(__name__)
POLL = 0.05  # seconds
SETTLE = 0.3  # seconds that node 0 waits for earlier failures after it was told of one
HANG_SETTLE = 5.0  # seconds that it waits for the other nodes' reports of a hang: they ask their ranks for stacks first
SEVERAL = -1  # the node of a verdict that several have told
QUIET = 2.0  # seconds of waiting for other nodes before a user is told of it


class Nodes:
    """Of one node: there is nobody to wait for and nobody to tell."""

    def rendezvous(self) -> None:
        """Wait until the launchers of all nodes have come."""

    def poll(self) -> None:
        """Raise what ends the job, where another node tells of it; called many times a second."""

    def wait_until_done(self) -> None:
        """Wait until all nodes have done what this one has done."""

    def report(self, reason: BaseException) -> BaseException:
        """Have the other nodes end for `reason`, unless it came from there. What the job ends with, on all of them."""
        return reason


@contextmanager
def nodes_of(settings: MsrunLauncherConf, job: int, arguments: Sequence[str]) -> Iterator[Nodes]:
    """Those of a job of a launch; `arguments` have to be the same on all of them."""
    if node_count(settings) == 1:
        yield Nodes()
        return
    hello = {"nodes": node_count(settings), "job": job, "arguments": list(arguments)}
    with contextlib.ExitStack() as opened:
        yield (FirstNode if settings.node_rank == 0 else OtherNode)(settings, hello, opened)


class _SeveralNodes(Nodes):
    """What node 0 and the others have in common."""

    def __init__(self, settings: MsrunLauncherConf, hello: dict[str, Any], opened: contextlib.ExitStack) -> None:
        self._node = settings.node_rank
        self._hello = hello
        self._opened = opened  # connections, to be closed at the end
        self._address = master_address(settings), master_port(settings) + 1
        self._endpoint = f"{settings.master_addr}:{self._address[1]}"
        self._limit = settings.cluster_time_out
        self._verdict: Optional[BaseException] = None  # what ends the job, once another node has told

    def rendezvous(self) -> None:
        begun, told = time.monotonic(), False
        try:
            while missing := self._missing():
                waited = time.monotonic() - begun
                if 0 <= self._limit < waited:
                    raise WorkerFailed(f"{missing} within hydra.launcher.cluster_time_out={self._limit} s")
                if waited > QUIET and not told:
                    log.info("%s yet", missing)
                    told = True
                time.sleep(POLL)
        except BaseException as reason:
            raise self.report(reason) from None

    def _missing(self) -> str:
        """Who has not come, empty once all have."""
        raise NotImplementedError

    def _end(self, reason: BaseException) -> NoReturn:
        self._verdict = reason
        raise reason


class FirstNode(_SeveralNodes):
    """Node 0, which decides."""

    def __init__(self, settings: MsrunLauncherConf, hello: dict[str, Any], opened: contextlib.ExitStack) -> None:
        super().__init__(settings, hello, opened)
        self._peers: dict[int, Peer] = {}
        self._pending: list[Peer] = []  # have not said hello
        self._done: set[int] = set()
        self._failures: list[tuple[int, WorkerFailed]] = []  # and the node
        self._told_at = 0.0  # of the first of them
        family = socket.getaddrinfo(*self._address)[0][0]
        try:
            self._listener = opened.enter_context(socket.create_server(self._address, family=family))
        except OSError as error:
            where = f"hydra.launcher.master_port={self._address[1] - 1}: the next port can't be listened at"
            raise WorkerFailed(f"{where}: {error.strerror}") from error

    def rendezvous(self) -> None:
        super().rendezvous()
        self._send_all("start")

    def poll(self) -> None:
        self._listen()
        if self._failures and self._has_settled():
            self._end(self._decide())

    def wait_until_done(self) -> None:
        while len(self._done) < len(self._peers):
            self.poll()
            time.sleep(POLL)
        self._send_all("done")

    def report(self, reason: BaseException) -> BaseException:
        if reason is self._verdict:
            return reason
        if isinstance(reason, (KeyboardInterrupt, Terminated)):
            self._send_all("stop", signal=number_of(reason))
            return reason
        mine = reason if isinstance(reason, WorkerFailed) else WorkerFailed(f"{reason!r}")
        self._fail(0, mine)
        while not self._has_settled():
            try:
                self._listen()
            except (KeyboardInterrupt, Terminated) as stop:
                return stop
            time.sleep(POLL)
        verdict = self._decide()
        return reason if verdict is mine else verdict

    def _missing(self) -> str:
        while select.select([self._listener], [], [], 0)[0]:
            connection = self._opened.enter_context(self._listener.accept()[0])
            self._pending.append(Peer(connection))
        for newcomer in list(self._pending):
            for said in newcomer.received():
                self._pending.remove(newcomer)
                self._receive(newcomer, said)
                break
            if newcomer.closed and newcomer in self._pending:
                self._pending.remove(newcomer)
        self.poll()
        names = [str(node) for node in range(1, self._hello["nodes"]) if node not in self._peers]
        return (
            f"node{'s' if len(names) > 1 else ''} {', '.join(names)} didn't come to {self._endpoint}" if names else ""
        )

    def _receive(self, peer: Peer, said: dict[str, Any]) -> None:
        """Let in who has said hello. What was started otherwise has to be seen on both sides."""
        node, job, ours = said.pop("node", None), said.get("job"), self._hello
        if said.pop("what") != "hello" or not isinstance(node, int) or not isinstance(job, int):
            return
        if node in self._peers:
            peer.send("refused", why=f"node {node} is there already")
        elif job < ours["job"]:
            peer.send("refused", why=f"job #{job} has ended on node 0")
        elif job > ours["job"]:  # it will ask again
            raise WorkerFailed(f"job #{ours['job']} has ended on node {node}")
        elif said == ours:
            self._peers[node] = peer
        else:
            why = f"node {node} was started with something else than node 0"
            for name in ours:
                if said.get(name) != ours[name]:
                    why += f"\n  {name} there: {_text(said.get(name))}\n  {name} here: {_text(ours[name])}"
            peer.send("refused", why=why)
            raise WorkerFailed(why)

    def _listen(self) -> None:
        for node, peer in self._peers.items():
            for said in peer.received():
                self._take(node, said)
            if peer.closed and node not in self._done and all(node != failed for failed, _ in self._failures):
                self._fail(node, WorkerFailed(f"node {node} broke its connection: its launcher or its machine ended"))

    def _take(self, node: int, said: dict[str, Any]) -> None:
        if said["what"] == "done":
            self._done.add(node)
        elif said["what"] == "failed":
            self._fail(node, failure_of(said))
        elif said["what"] == "stop":
            self._send_all("stop", signal=said["signal"])
            self._end(stop_of(said["signal"]))

    def _fail(self, node: int, failure: WorkerFailed) -> None:
        self._told_at = self._told_at or time.monotonic()
        self._failures.append((node, failure))

    def _has_settled(self) -> bool:
        """Whether nobody else is expected to tell of a failure."""
        limit = HANG_SETTLE if any(failure.hangs for _, failure in self._failures) else SETTLE
        return len(self._failures) > len(self._peers) or time.monotonic() - self._told_at > limit

    def _decide(self) -> WorkerFailed:
        node, failure = min(self._failures, key=lambda entry: entry[1].at)
        reports = [found for _, found in sorted(self._failures, key=lambda entry: entry[0]) if found.hangs]
        if failure.hangs and len(reports) > 1:
            node, failure = SEVERAL, together(reports)
        self._send_all("end", node=node, **fields_of(failure))
        return failure

    def _send_all(self, what: str, **said: Any) -> None:
        for peer in self._peers.values():
            peer.send(what, **said)


class OtherNode(_SeveralNodes):
    """Every other node, which tells node 0 and then does as that says."""

    def __init__(self, settings: MsrunLauncherConf, hello: dict[str, Any], opened: contextlib.ExitStack) -> None:
        super().__init__(settings, hello, opened)
        self._first: Optional[Peer] = None
        self._started = False
        self._all_done = False
        self._is_mine = False  # what the job ends with

    def poll(self) -> None:
        if self._first is None:
            return
        for said in self._first.received():
            self._take(said)
        if self._first.closed and not self._all_done:
            if self._started:
                self._end(WorkerFailed("node 0 broke its connection: its launcher or its machine ended"))
            self._first = None  # it was not for this job: the next may be

    def wait_until_done(self) -> None:
        assert self._first is not None
        self._first.send("done")
        while not self._all_done:
            self.poll()
            time.sleep(POLL)

    def report(self, reason: BaseException) -> BaseException:
        if reason is self._verdict or self._first is None:
            return reason
        if isinstance(reason, (KeyboardInterrupt, Terminated)):
            self._first.send("stop", signal=number_of(reason))
            return reason
        mine = reason if isinstance(reason, WorkerFailed) else WorkerFailed(f"{reason!r}")
        self._first.send("failed", **fields_of(mine))
        deadline = time.monotonic() + PATIENCE + (HANG_SETTLE if mine.hangs else 0)
        while time.monotonic() < deadline and self._first is not None:
            try:
                self.poll()
            except (WorkerFailed, KeyboardInterrupt, Terminated) as verdict:
                return reason if self._is_mine else verdict
            time.sleep(POLL)
        return reason

    def _missing(self) -> str:
        if self._first is None:
            with contextlib.suppress(OSError):
                connection = socket.create_connection(self._address, timeout=PATIENCE)
                self._first = Peer(self._opened.enter_context(connection))
                self._first.send("hello", node=self._node, **self._hello)
        self.poll()
        if self._first is None:
            return f"node 0 didn't come to {self._endpoint}"
        return "" if self._started else "other nodes didn't come"

    def _take(self, said: dict[str, Any]) -> None:
        if said["what"] == "start":
            self._started = True
        elif said["what"] == "done":
            self._all_done = True
        elif said["what"] == "refused":
            self._end(WorkerFailed(said["why"]))
        elif said["what"] == "stop":
            self._end(stop_of(said["signal"]))
        elif said["what"] == "end":
            self._is_mine = said["node"] == self._node
            self._end(failure_of(said))


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
