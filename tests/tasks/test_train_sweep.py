"""A sweep trains once per value, and its MLflow runs have one parent run."""

from pathlib import Path

import pytest
from mlflow_runs import runs_in
from tasks_support import Workspace, succeeded

pytestmark = pytest.mark.slow


def test_each_job_has_a_run_and_a_directory(workspace: Workspace) -> None:
    ended = succeeded(workspace("-m", "+experiment=tiny", "seq_length=128,256", "hydra.sweep.dir=sweep-cache"))
    runs = runs_in(workspace.directory)
    (sweep,) = [run for run in runs if run.tags.get("sweep") == "true" and run.name == "tiny"]
    jobs = [run for run in runs if run.tags.get("mlflow.parentRunId") == sweep.id]
    assert [(run.name, run.status) for run in jobs] == [("seq_length=128", "FINISHED"), ("seq_length=256", "FINISHED")]
    assert sweep.status == "FINISHED"
    assert not sweep.metrics
    assert sweep.tags["overrides"].splitlines() == ["+experiment=tiny", "seq_length=128,256"]
    for number, (run, length) in enumerate(zip(jobs, (128, 256), strict=True)):
        directory = workspace.directory / "sweep-cache" / str(number)
        assert Path(run.tags["checkpoint"]) == directory / "checkpoints" / "step-000003"
        assert (directory / "checkpoints" / "last" / "model.safetensors").is_file()
        assert run.params["seq_length"] == str(length)
        # Four sequences per step; perf/tokens_per_s counts all positions.
        seconds, rates = run.values("perf/step_time_s"), run.values("perf/tokens_per_s")
        assert [round(s * r) for s, r in zip(seconds, rates, strict=True)] == [4 * length] * 3
        assert f"sequences of {length} tokens" in ended.out
        for when in ("before", "after"):
            answers = (run.artifacts / "predictions" / f"{when}.md").read_text()
            assert answers.startswith("## Add two numbers.\n\n")
