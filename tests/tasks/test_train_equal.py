"""Ranks, micro steps and recomputation don't change the result; evaluation and checkpoints during training."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from mlflow_runs import Recorded
from processes import Ended
from safetensors.numpy import load_file
from tasks_support import FIVE_STEPS, MOVED, RECIPE, SAME, STEP_METRICS, Workspace, succeeded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def reference(workspace: Workspace, whole: Ended) -> Recorded:
    return workspace.run("whole")


def weights_of(workspace: Workspace, name: str) -> dict[str, np.ndarray]:
    return load_file(workspace.directory / "runs" / name / "checkpoints" / "last" / "model.safetensors")


def links_of(checkpoints: Path) -> dict[str, str]:
    """Name -> target of a link; '' for directories."""
    return {path.name: str(path.readlink()) if path.is_symlink() else "" for path in checkpoints.iterdir()}


def assert_same(found: Recorded, reference: Recorded, names: Sequence[str] = SAME) -> None:
    """Assert equality up to the order of sums: fp32 rounds at 6e-8, which five steps at 1e-3 raise to about 1e-6."""
    for name in names:
        for step, value in reference.metrics[name].items():
            assert found.metrics[name][step] == pytest.approx(value, rel=1e-5), f"{name} at step {step}"


@pytest.fixture
def assert_same_weights(workspace: Workspace, assert_learnt_alike: Callable[..., None]) -> Callable[[str], None]:
    """assert_same_weights(name): the run's weights equal the reference's up to rounding."""

    def check(name: str) -> None:
        found, reference = weights_of(workspace, name), weights_of(workspace, "whole")
        assert found.keys() == reference.keys()
        for key in reference:
            assert_learnt_alike(found[key], reference[key], **MOVED, name=key)

    return check


def test_five_steps_learn(reference: Recorded) -> None:
    """The weights change, so that comparing them means something."""
    assert reference.status == "FINISHED"
    assert reference.metrics["eval/loss"][5] < reference.metrics["eval/loss"][0] - 0.3


def test_two_ranks_equal_one_with_two_sequences(
    workspace: Workspace, reference: Recorded, halves: Ended, assert_same_weights: Callable[[str], None]
) -> None:
    found = workspace.run("halves")
    assert found.status == "FINISHED"
    assert_same(found, reference)
    assert_same_weights("halves")
    for step in range(1, 6):
        total, each = (found.metrics[f"perf/{name}"][step] for name in ("tokens_per_s", "tokens_per_s_per_device"))
        assert total * found.metrics["perf/step_time_s"][step] == pytest.approx(512)
        assert each == pytest.approx(total / 2)


def test_only_rank_0_prints_logs_and_writes(workspace: Workspace, halves: Ended) -> None:
    """runs_in asserts that no value was logged twice."""
    assert workspace.run("halves").metrics.keys() == STEP_METRICS | {"eval/loss", "perf/compile_time_s"}
    assert links_of(workspace.directory / "runs/halves/checkpoints") == {
        "step-000005": "",
        "last": "step-000005",
        "best": "step-000005",
    }
    for once in ("training …", "data: 40 rows", "eval loss    ", "checkpoint   ", "see the run  "):
        assert (halves.out + halves.err).count(once) == 1, halves.err
    log = workspace.directory / "halves-sweep-cache" / "0" / "logs" / "worker_1.log"
    assert "loss" not in log.read_text()


def test_two_ranks_prepare_the_data_once(workspace: Workspace, halves: Ended) -> None:
    """One rank prepares the data while the other waits."""
    (prepared,) = (workspace.directory / "halves-cache" / "data").iterdir()
    assert f" in {prepared}\n" in halves.out
    assert (prepared / "data.json").is_file()


def test_micro_steps_with_recomputation_equal_one_step(
    workspace: Workspace, reference: Recorded, parts: Ended, assert_same_weights: Callable[[str], None]
) -> None:
    assert_same(workspace.run("parts"), reference)
    assert_same_weights("parts")


def test_evaluation_and_checkpoints_during_training(workspace: Workspace, reference: Recorded, parts: Ended) -> None:
    assert reference.metrics["eval/loss"].keys() == {0, 5}
    losses = workspace.run("parts").metrics["eval/loss"]
    assert losses.keys() == {0, 2, 4, 5}
    checkpoints = workspace.directory / "runs/parts/checkpoints"
    assert links_of(checkpoints) == {
        **{"step-000002": "", "step-000004": "", "step-000005": ""},
        **{"last": "step-000005", "best": "step-000005"},
    }
    assert losses[2] > losses[4] > losses[5]
    early, late = (load_file(checkpoints / name / "model.safetensors") for name in ("step-000002", "step-000005"))
    assert any(np.abs(early[key] - late[key]).max() > 1e-4 for key in early)


def test_without_a_compiler_the_result_is_the_same(
    workspace: Workspace, reference: Recorded, assert_same_weights: Callable[[str], None]
) -> None:
    own = ["parallel=single", "train.micro_batch_size=2", "name=operators", "output_dir=runs/operators"]
    command = ["python", "-m", "dscoder_exp", *FIVE_STEPS, *own]
    ended = succeeded(workspace.type(f"CXX=no-such-compiler {shlex.join(command)}"))
    assert (
        "kernels: MindSpore's operators, which take two thirds longer (there is no C++ compiler 'no-such-compiler': "
        "install one (g++), or name it in CXX)\n"
    ) in ended.err
    # Not the gradient norm: MindSpore's L2Loss is accurate to 1e-5 to 1e-4.
    assert_same(workspace.run("operators"), reference, ["train/loss", "eval/loss"])
    assert_same_weights("operators")


@pytest.fixture(scope="session")
def learning(workspace: Workspace) -> Recorded:
    own = ["parallel=single", "train.max_steps=30", "optim.lr=5e-3", "name=learning", "output_dir=runs/learning"]
    succeeded(workspace(*RECIPE, *own))
    return workspace.run("learning")


def test_the_recipe_learns(learning: Recorded) -> None:
    """Random weights have a loss of ln 1024 = 6.9 nats; thirty steps learn the common form of the rows."""
    assert learning.metrics["eval/loss"][30] < 2.0 < learning.metrics["eval/loss"][0]
    assert np.mean(learning.values("train/loss")[-5:]) < 2.0


def test_the_best_checkpoint_need_not_be_the_last(workspace: Workspace, learning: Recorded) -> None:
    """Weight decay of a fifth per step makes the model worse."""
    base = ["model=tiny", "model.path=runs/learning/checkpoints/last"]
    unlearning = ["optim.lr=1e-3", "optim.weight_decay=200", "optim.schedule=constant"]
    measured = ["train.max_steps=5", "train.eval_every=2", "train.save_every=2"]
    succeeded(
        workspace(
            *RECIPE, "parallel=single", *base, *unlearning, *measured, "name=unlearning", "output_dir=runs/unlearn"
        )
    )
    losses = workspace.run("unlearning").metrics["eval/loss"]
    assert losses[0] == pytest.approx(learning.metrics["eval/loss"][30], rel=1e-5)  # the saved model, loaded again
    assert losses[2] < losses[4] < losses[5]
    links = links_of(workspace.directory / "runs/unlearn/checkpoints")
    assert (links["best"], links["last"]) == ("step-000002", "step-000005")
