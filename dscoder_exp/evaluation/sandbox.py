"""The sandbox: programs that a model wrote, several at a time, each with its tests and behind walls."""

import json
import os
import selectors
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dscoder_exp.evaluation.jail.walls import Limits
from dscoder_exp.evaluation.programs import Outcome, Program, Verdict
from dscoder_exp.evaluation.sandbox_server import WALLS, Server, start
from dscoder_exp.schema.errors import refuse

KEY = "evaluate.sandbox"


@dataclass
class _Running:
    program: Program
    slot: int
    retried: bool  # it was lost before; it is the only one that runs


class Sandbox:
    """Runs programs and their tests; a context manager, for one thread.

    Attributes:
        isolation: what holds here, for the result: "network, files and processes isolated (namespaces)", or what
            doesn't and why.
    """

    def __init__(
        self,
        jobs: int | None = None,
        *,
        strict: bool = False,
        imports: Sequence[str] = (),
        limits: Limits | None = None,
        walls: Sequence[str] = WALLS,
    ) -> None:
        """
        Args:
            jobs: how many programs run at once; None: as many as this process has CPUs.
            strict: refuse where network, files and processes can't be isolated by namespaces.
            imports: modules that the tests need, loaded once for all.
            walls: which of WALLS may be tried, in this order.

        Raises:
            Refused: `strict`, and there are no namespaces here.
            RuntimeError: it can't be started.
        """
        self._limits, self._imports, self._allowed = limits or Limits(), tuple(imports), tuple(walls)
        self._free = list(range(jobs or len(os.sched_getaffinity(0))))
        self._queue: deque[Program] = deque()
        self._lost: deque[Program] = deque()  # to be run again, each alone
        self._running: dict[int, _Running] = {}  # by the descriptor that their outcome comes from
        self._selector = selectors.DefaultSelector()
        self._server: Server | None = None
        try:
            self._server, self.isolation = start(self._allowed, self._limits, self._imports)
            if strict and not self._server.namespaces:
                raise refuse(KEY, f"strict, but {self.isolation}", f"{KEY}=auto, or a machine that permits namespaces")
        except BaseException:
            self.close()
            raise

    def run(self, programs: Iterable[Program]) -> Iterator[Outcome]:
        """The outcomes of all programs, as they finish. The next program is taken when there is a place for it."""
        waiting = iter(programs)
        more = True
        while more or self.unfinished:
            while more and self.idle:
                program = next(waiting, None)
                more = program is not None
                if program is not None:
                    self.submit(program)
            yield from self.finished(wait=True)

    @property
    def unfinished(self) -> int:
        """How many submitted programs have no outcome yet."""
        return len(self._queue) + len(self._lost) + len(self._running)

    @property
    def idle(self) -> bool:
        """Whether a program that is submitted now begins at once."""
        return bool(self._free) and not self._queue and not self._lost and not self._alone

    def submit(self, program: Program) -> None:
        """Run a program as soon as there is a place for it."""
        self._queue.append(program)
        self._fill()

    def finished(self, *, wait: bool) -> list[Outcome]:
        """Outcomes that weren't returned yet; with `wait`, at least one if any program is unfinished."""
        found: list[Outcome] = []
        while self._running:
            ready = self._selector.select(None if wait and not found else 0)
            found += [outcome for key, _ in ready if (outcome := self._outcome(key.fd)) is not None]
            self._fill()
            if not ready:
                break
        return found

    @property
    def _alone(self) -> bool:
        return any(running.retried for running in self._running.values())

    def _fill(self) -> None:
        while self._queue and self._free and not self._lost and not self._alone:
            self._begin(self._queue.popleft(), retried=False)
        if self._lost and not self._running:
            self._begin(self._lost.popleft(), retried=True)

    def _begin(self, program: Program, *, retried: bool) -> None:
        payload = os.memfd_create("program")
        outcome, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fields = {"code": program.code, "tests": program.tests, "entry_point": program.entry_point}
        with os.fdopen(payload, "wb", closefd=False) as file:
            file.write(json.dumps(fields).encode())
        os.lseek(payload, 0, os.SEEK_SET)
        slot = self._free.pop()
        try:
            self._request(slot, program.time_limit, payload, theirs)
        finally:
            os.close(payload)
            os.close(theirs)
        self._running[outcome] = _Running(program, slot, retried)
        self._selector.register(outcome, selectors.EVENT_READ)

    def _request(self, slot: int, seconds: float, payload: int, outcome: int) -> None:
        assert self._server is not None
        try:
            self._server.request(slot, seconds, payload, outcome)
        except OSError:  # it was killed
            self._server.close()
            self._server, self.isolation = start(self._allowed, self._limits, self._imports)
            self._server.request(slot, seconds, payload, outcome)

    def _outcome(self, descriptor: int) -> Outcome | None:
        """What a program came to; None if it was lost, with its watcher, and is run again."""
        data = os.read(descriptor, 1 << 16)
        running = self._running.pop(descriptor)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        self._free.append(running.slot)
        found: dict[str, Any] = json.loads(data) if data else {"fault": "the process that watched it was ended"}
        if "fault" not in found:
            verdict = Verdict(found["verdict"])
            return Outcome(running.program.key, verdict, found["message"], found["seconds"])
        if not running.retried:
            self._lost.append(running.program)
            return None
        message = f"the sandbox failed: {found['fault']}"
        return Outcome(running.program.key, Verdict.ERROR, message, 0.0)

    def close(self) -> None:
        """End all programs that run, and the server."""
        for descriptor in self._running:
            os.close(descriptor)
        self._running.clear()
        self._selector.close()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
