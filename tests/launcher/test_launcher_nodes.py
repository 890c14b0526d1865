"""Two nodes of two ranks each, which here are two launchers on one machine."""

import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

GUARD = 60.0  # seconds until a hanging test is given up
PROMPT = 5.0  # seconds from a failure on one node to the other node's end


def reached(port: int) -> socket.socket:
    """A connection to what will listen there."""
    deadline = time.monotonic() + GUARD
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nothing listens at {port}"
            time.sleep(0.05)


@pytest.fixture
def nodes(start: Any, free_port: Any) -> Any:
    """nodes(*overrides) -> the launches of node 0 and node 1; `own`: overrides of node 1 alone."""

    def begin(*overrides: str, own: tuple[str, ...] = ()) -> list[Any]:
        several = ["hydra.launcher.local_worker_num=2", "hydra.launcher.master_addr=127.0.0.1"]
        place = f"hydra.launcher.master_port={free_port()}"
        return [
            start(
                "app.py",
                *overrides,
                "ranks=4",
                *several,
                place,
                f"hydra.launcher.node_rank={node}",
                f"hydra.sweep.dir=out/node{node}",
                "hydra.launcher.log_dir=logs",
                *(own if node == 1 else ()),
            )
            for node in (0, 1)
        ]

    return begin


def test_each_node_runs_its_own_ranks(nodes: Any, tmp_path: Path) -> None:
    launches = nodes("how=report", "output_dir=.")
    for node, launch in enumerate(launches):
        code, output = launch.finish()
        assert code == 0, output
        logs = tmp_path / f"logs/node_{node}"
        assert f"node {node} of 2: ranks {2 * node} to {2 * node + 1}; logs in {logs}\n" in output
        assert f"node {node} of 2: all nodes have completed" in output
        assert f"hello from rank {2 * node + 1}" in (logs / f"worker_{2 * node + 1}.log").read_text()
        assert launch.living() == []
    reports = [json.loads((tmp_path / f"report-{rank}.json").read_text()) for rank in range(4)]
    assert [(found["RANK_ID"], found["MS_WORKER_NUM"]) for found in reports] == [(str(rank), "4") for rank in range(4)]


@pytest.mark.parametrize(("rank", "how"), [(1, "raise"), (1, "kill"), (3, "raise"), (3, "kill")])
def test_a_failing_rank_is_named_on_all_nodes(nodes: Any, tmp_path: Path, rank: int, how: str) -> None:
    cause = {"raise": "TaskError: here: boom", "kill": "killed by SIGKILL"}[how]
    for launch in nodes(f"how={how}", f"rank={rank}"):
        code, output = launch.finish()
        assert code == 1
        assert f"\nrank {rank} failed: {cause}\n" in output
        assert f"\nlog on node {rank // 2}: {tmp_path}/logs/node_{rank // 2}/worker_{rank}.log\n" in output
        assert ("in fail\n  TaskError: here: boom" in output) == (how == "raise")
        assert launch.living() == []


@pytest.mark.parametrize("rank", [0, 3])
def test_a_node_that_is_through_waits_for_the_other(nodes: Any, rank: int) -> None:
    for launch in nodes("how=late", f"rank={rank}"):
        code, output = launch.finish()
        assert code == 1
        assert f"\nrank {rank} failed: TaskError: here: boom\n" in output


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_is_gone_ends_the_other(nodes: Any, tmp_path: Path, node: int) -> None:
    started = tmp_path / "started"
    launches = nodes("how=hang", f"started={started}")
    launches[0].wait_for(started)
    launches[node].process.kill()
    killed = time.monotonic()
    code, output = launches[1 - node].finish()
    assert time.monotonic() - killed < PROMPT
    assert code == 1
    assert f"node {node} broke its connection" in output
    assert [launch.wait_until_gone() for launch in launches] == [[], []]


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize(("number", "word"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_node_that_is_told_to_stop_stops_the_other(
    nodes: Any, tmp_path: Path, node: int, number: signal.Signals, word: str
) -> None:
    started = tmp_path / "started"
    launches = nodes("-m", "how=hang,ok", f"started={started}", "hydra.launcher.lifecycle=recorder.Recorder")
    launches[0].wait_for(started)
    launches[node].process.send_signal(number)
    codes = [launch.finish()[0] for launch in launches]
    assert codes == [{signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}[number]] * 2
    record = (tmp_path / "record.txt").read_text().splitlines()
    assert record.count(f"after_job 0 killed rank=None stopped by {word}") == 2
    assert record.count("after_launch killed") == 2
    assert [launch.living() for launch in launches] == [[], []]


def test_a_hang_is_told_with_the_ranks_of_all_nodes(nodes: Any) -> None:
    """Whoever is told first, the one that the others wait for may be on another node."""
    for launch in nodes("how=silent", "rank=3", "hydra.launcher.heartbeat=3"):
        code, output = launch.finish()
        assert code == 1
        for rank, step in ((0, 3), (1, 3), (2, 3), (3, 2)):
            assert re.search(rf"\n  rank {rank}: step {step}, \d+\.\d s ago\n    Stack", output), output
        assert output.count("log on node 0: ") == output.count("log on node 1: ") == 1
        assert launch.living() == []


def test_later_jobs_of_a_sweep_run_on_all_nodes(nodes: Any, tmp_path: Path) -> None:
    for node, launch in enumerate(nodes("-m", "how=kill,ok", "rank=2")):
        code, output = launch.finish()
        assert code == 1
        assert f"hello from rank {2 * node}" in output.partition("job #0 failed: rank 2 failed: killed")[2]


def test_nodes_that_were_started_otherwise_are_refused(nodes: Any) -> None:
    for launch in nodes("how=ok", own=("rank=2",)):
        code, output = launch.finish()
        assert code == 1
        assert "node 1 was started with something else than node 0" in output
        assert "arguments there: how=ok ranks=4 rank=2\n" in output
        assert "arguments here: how=ok ranks=4\n" in output
        assert "hello" not in output


def test_who_says_nothing_that_makes_sense_is_not_let_in(start: Any, free_port: Any) -> None:
    port = free_port()
    several = ["hydra.launcher.local_worker_num=1", "hydra.launcher.master_addr=127.0.0.1"]
    several += [f"hydra.launcher.master_port={port}", "ranks=2"]
    first = start("app.py", *several, "hydra.sweep.dir=out/node0")
    with contextlib.ExitStack() as strangers:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"what": "stop", "signal": 15}\n', b"{}\n", b""):
            strangers.enter_context(reached(port + 1)).sendall(words)
        other = start("app.py", *several, "hydra.sweep.dir=out/node1", "hydra.launcher.node_rank=1")
        for launch in (first, other):
            code, output = launch.finish()
            assert code == 0, output


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_does_not_come_is_named(start: Any, node: int, free_port: Any) -> None:
    port = free_port()
    several = ["hydra.launcher.local_worker_num=1", "hydra.launcher.master_addr=127.0.0.1"]
    here = [
        f"hydra.launcher.master_port={port}",
        f"hydra.launcher.node_rank={node}",
        "hydra.launcher.cluster_time_out=1",
    ]
    code, output = start("app.py", "ranks=2", *several, *here).finish()
    assert code == 1
    missing = f"node {1 - node} didn't come to 127.0.0.1:{port + 1} within hydra.launcher.cluster_time_out=1 s"
    assert missing in output


def test_a_port_that_nodes_cannot_meet_at_fails_the_job(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] - 1
        several = ["hydra.launcher.local_worker_num=1", "hydra.launcher.master_addr=127.0.0.1"]
        code, output = start("app.py", "ranks=2", *several, f"hydra.launcher.master_port={port}").finish()
    assert code == 1
    assert f"hydra.launcher.master_port={port}: the next port can't be listened at: Address already in use" in output
