"""Two nodes of one rank each, through the real launcher: only node 0 records the run, and a stop reaches both."""

import signal
from pathlib import Path
from typing import Any

import pytest
from app_support import HERE, Command
from mlflow_runs import runs_in

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(tracked: Command, small: list[str], tmp_path: Path, free_port: Any) -> Any:
    """nodes(*arguments) -> both nodes' started commands, node 1's in another directory."""
    other = Command(tmp_path / "other", HERE / "fakes")
    other.directory.mkdir()
    several = ["local_worker_num=1", "master_addr=127.0.0.1", f"master_port={free_port()}"]

    def begin(*arguments: str) -> list[Any]:
        shared = [*small, "parallel=dp2", f"output_dir={tmp_path}/run", *arguments]
        options = [f"hydra.launcher.{option}" for option in several]
        return [
            command.start(*shared, *options, f"hydra.launcher.node_rank={node}")
            for node, command in enumerate((tracked, other))
        ]

    return begin


def test_node_0_records_the_run_and_each_rank_uses_its_nodes_cores(
    nodes: Any, tracked: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for process in nodes("name=ok"):
        ended = process.wait()
        assert ended.code == 0, ended.err
    [run] = runs_in(tracked.directory)
    assert (run.name, run.status) == ("ok", "FINISHED")
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"multirun"}
    assert [(tmp_path / f"run/threads-{rank}").read_text() for rank in (0, 1)] == ["all", "all"], ()


def test_a_stop_on_another_node_is_recorded(nodes: Any, tracked: Command, tmp_path: Path) -> None:
    first, second = nodes("name=hang")
    second.wait_for(tmp_path / "other" / "started")
    second.process.send_signal(signal.SIGTERM)
    for process in (first, second):
        ended = process.wait()
        assert ended.code == 143, ended.err
    [run] = runs_in(tracked.directory)
    assert (run.status, run.tags["error"]) == ("KILLED", "stopped by SIGTERM")
