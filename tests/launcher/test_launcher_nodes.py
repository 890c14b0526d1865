"""Two nodes of two ranks each, as two launchers on one machine; test_nodes_protocol.py covers the single cases."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(start: Any, free_port: Any) -> Any:
    """nodes(*overrides) -> the launches of node 0 and node 1."""

    def begin(*overrides: str) -> list[Any]:
        several = ["hydra.launcher.local_worker_num=2", "hydra.launcher.master_addr=127.0.0.1"]
        port = f"hydra.launcher.master_port={free_port()}"
        return [
            start(
                "app.py",
                *overrides,
                "ranks=4",
                *several,
                port,
                f"hydra.launcher.node_rank={node}",
                f"hydra.sweep.dir=out/node{node}",
                "hydra.launcher.log_dir=logs",
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


def test_a_killed_rank_is_named_on_all_nodes(nodes: Any, tmp_path: Path) -> None:
    for launch in nodes("how=kill", "rank=3"):
        code, output = launch.finish()
        assert code == 1
        assert "\nrank 3 failed: killed by SIGKILL\n" in output
        assert f"\nlog on node 1: {tmp_path}/logs/node_1/worker_3.log\n" in output
        assert launch.living() == []


def test_a_signal_on_one_node_stops_the_other(nodes: Any, tmp_path: Path) -> None:
    started = tmp_path / "started"
    launches = nodes("-m", "how=hang,ok", f"started={started}", "hydra.launcher.lifecycle=recorder.Recorder")
    launches[0].wait_for(started)
    launches[1].process.send_signal(signal.SIGTERM)
    assert [launch.finish()[0] for launch in launches] == [143, 143]
    record = (tmp_path / "record.txt").read_text().splitlines()
    assert record.count("after_job 0 killed rank=None stopped by SIGTERM") == 2
    assert record.count("after_launch killed") == 2
    assert [launch.living() for launch in launches] == [[], []]
