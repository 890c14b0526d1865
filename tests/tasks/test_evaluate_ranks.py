"""task=evaluate on several ranks, killed at random, and the scores of a training run's checkpoints."""

import json
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from predict_support import read
from tasks_support import RECIPE, Workspace, checkpoints, named, succeeded

PROBLEMS = [
    {
        "task_id": f"Own/{number}",
        "prompt": f'def add_{number}(x):\n    """ Add {number} to x. """\n',
        "entry_point": f"add_{number}",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    }
    for number in range(6)
]
KEPT = ("task_id", "sample", "completion", "passed", "verdict", "tokens")


@pytest.fixture
def suite(workspace: Workspace) -> Path:
    file = workspace.directory / "runs/h.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in PROBLEMS))
    return file


def command(suite: Path, output: str, *more: str) -> list[str]:
    sampled = ["evaluate.temperature=1", "evaluate.num_samples=2", "evaluate.max_new_tokens=12"]
    own = [f"evaluate.source={suite}", f"evaluate.output={output}", "tracking=off"]
    return ["task=evaluate", "model=tiny", *sampled, *own, *more]


def results(workspace: Workspace, output: str) -> list[dict[str, Any]]:
    return [{key: row[key] for key in KEPT} for row in read(workspace.directory / output / "results.jsonl")]


@pytest.mark.slow
def test_replicas_share_the_problems_and_tensor_ranks_each_of_them(workspace: Workspace, suite: Path) -> None:
    for parallel in ("single", "dp2", "tp2"):
        ended = succeeded(workspace(*command(suite, f"runs/ev-{parallel}", f"parallel={parallel}")))
        assert "pass@1       0.0% (0 of 6)" in ended.out
        left = {file.name for file in (workspace.directory / f"runs/ev-{parallel}").iterdir()}
        assert left == {"results.jsonl", "evaluation.json", "evaluation.html"}
    one, two, split = (results(workspace, f"runs/ev-{parallel}") for parallel in ("single", "dp2", "tp2"))
    assert len(one) == 12
    assert one == two == split


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_nothing_is_lost_and_nothing_scored_twice(
    workspace: Workspace, suite: Path, seed: int
) -> None:
    chance = random.Random(seed)
    parallel = chance.choice(["parallel=single", "parallel=dp2"])
    asked = command(suite, f"runs/killed-{seed}", parallel, "evaluate.batch_size=2")
    directory = workspace.directory / f"runs/killed-{seed}"
    kept: dict[tuple[int, int], Any] = {}
    for _ in range(2):
        started = workspace.start(*asked)
        while not list(directory.glob("*.partial")) and started.process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 4))
        for process in list(started.processes()):
            process.kill()
        started.wait()
        assert started.left() == []
        for place, answer in answers_in(directory).items():
            before = kept.setdefault(place, answer)
            assert before.get("completion") == answer.get("completion"), "it wasn't generated again"
    if not (directory / "results.jsonl").exists():
        succeeded(workspace(*asked))
    assert {file.name for file in directory.iterdir()} == {"results.jsonl", "evaluation.json", "evaluation.html"}
    rows = results(workspace, f"runs/killed-{seed}")
    assert [(row["task_id"], row["sample"]) for row in rows] == [(f"Own/{n}", s) for n in range(6) for s in (0, 1)]
    for (number, sample), answer in kept.items():
        assert rows[2 * number + sample]["completion"] == answer["completion"]


def answers_in(directory: Path) -> dict[tuple[int, int], Any]:
    """What the files of an unfinished evaluation keep; a verdict twice fails an assertion."""
    found: dict[tuple[int, int], Any] = {}
    for file in [*directory.glob("*.partial"), *directory.glob(".*.partial")]:
        for line in file.read_text().split("\n")[1:]:
            try:
                value = json.loads(line)
            except ValueError:  # cut short
                continue
            answer = found.setdefault((value["row"], value["sample"]), {})
            assert not answer.keys() & value["answer"].keys()
            answer.update(value["answer"])
    return found


@pytest.mark.slow
def test_checkpoints_are_scored_during_training(workspace: Workspace, suite: Path) -> None:
    scored = ["train.evaluate=humaneval", "train.evaluate_every=1", f"evaluate.source={suite}"]
    own = [*named("scored"), "train.max_steps=2", "parallel=single", "evaluate.max_new_tokens=4"]
    ended = succeeded(workspace(*RECIPE, *scored, *own))
    assert "humaneval    step 1: pass@1 0.0% of 6 problems, 95% interval 0.0% to 39.0%" in ended.out
    assert "             step 2: pass@1 0.0% of 6 problems" in ended.out
    run = workspace.run("scored")
    assert run.metrics["evaluate/pass_at_1"] == {1: 0.0, 2: 0.0}
    assert {path.name for path in (run.artifacts / "evaluation").iterdir()} == {"step-000001", "step-000002"}
    with sqlite3.connect(workspace.directory / "mlflow.db") as store:
        models = store.execute(
            "SELECT m.name, s.metric_name, s.metric_value, s.metric_step, s.dataset_name FROM logged_models m "
            "JOIN logged_model_metrics s ON s.model_id = m.model_id WHERE m.source_run_id = ? ORDER BY m.name",
            (run.id,),
        ).fetchall()
    of_score = [row for row in models if row[1] == "evaluate/pass_at_1"]
    assert of_score == [("step-000001", "evaluate/pass_at_1", 0.0, 1, "h.jsonl"), ("step-000002", *of_score[1][1:])]

    last = checkpoints(workspace, "scored") / "last"
    again = ["task=evaluate", f"model.path={last}", f"evaluate.source={suite}", "evaluate.max_new_tokens=4"]
    succeeded(workspace(*again, "name=again", "evaluate.output=runs/ev-again"))
    with sqlite3.connect(workspace.directory / "mlflow.db") as store:
        names = store.execute(
            "SELECT m.name, m.source_run_id FROM logged_models m JOIN logged_model_metrics s "
            "ON s.model_id = m.model_id WHERE s.run_id = ?",
            (workspace.run("again").id,),
        ).fetchall()
    assert set(names) == {("step-000002", run.id)}, "the score follows the checkpoint that the training run made"
