"""A run can be resumed on other numbers of ranks with the same result; two tensor-parallel ranks answer like one."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from command_line import CommandLine
from processes import Ended
from safetensors.numpy import load_file
from tasks_support import FIVE_STEPS, MOVED, Workspace, succeeded

pytestmark = pytest.mark.slow


def steps_of(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").glob("step-*"))


def run_legs(workspace: Workspace, name: str, legs: Sequence[tuple[int, str]]) -> tuple[Path, Ended]:
    """Train five steps in legs, each with its last step and its layout's overrides; returns directory and last output.

    Every leg trains all five steps, so that the learning-rate schedule is the same; its checkpoints after its last step
    are removed.
    """
    directory, ended = workspace.directory / "runs" / name, None
    for last, layout in legs:
        own = [
            "tracking=off",
            f"output_dir=runs/{name}",
            "train.resume=auto",
            "train.save_every=1",
            "train.keep_last=null",
        ]
        ended = succeeded(workspace(*FIVE_STEPS, *layout.split(), *own))
        assert steps_of(directory) == [f"step-{step:06d}" for step in range(1, 6)]
        for step in range(last + 1, 6):
            shutil.rmtree(directory / "checkpoints" / f"step-{step:06d}")
    assert ended is not None
    return directory, ended


def eval_loss(ended: Ended) -> str:
    (line,) = [line for line in ended.out.splitlines() if line.startswith("eval loss  ")]
    return line


@pytest.fixture
def assert_close(assert_learnt_alike: Callable[..., None]) -> Callable[[Path, Path], None]:
    """assert_close(found, expected): the weights in two files are equal up to rounding."""

    def check(found: Path, expected: Path) -> None:
        weights, reference = load_file(found), load_file(expected)
        assert weights.keys() == reference.keys()
        for name, array in reference.items():
            assert_learnt_alike(weights[name], array, **MOVED, name=name)

    return check


def test_two_ranks_then_four_then_one(
    workspace: Workspace, whole: Ended, assert_close: Callable[[Path, Path], None]
) -> None:
    legs = [
        (2, "parallel=dp2"),
        (4, "parallel=dp2_tp2"),
        (5, "parallel=single train.micro_batch_size=2"),
    ]
    directory, ended = run_legs(workspace, "legs", legs)
    assert eval_loss(ended) == eval_loss(whole)
    sharded = directory / "checkpoints" / "step-000004"
    assert {path.name for path in sharded.glob("*.safetensors")} == {
        *(f"model-rank-{rank:02d}-of-02.safetensors" for rank in range(2)),
        *(f"optimizer-rank-{rank:02d}-of-04.safetensors" for rank in range(4)),
    }
    assert not list(directory.glob("checkpoints/.*"))
    last = "checkpoints/step-000005/model.safetensors"
    assert_close(directory / last, workspace.directory / "runs/whole" / last)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_ranks_answer_like_one(workspace: Workspace, here: CommandLine, untrained: Path, precision: str) -> None:
    model = f"model.path={untrained}"
    command = [
        "task=predict",
        model,
        "predict.prompt=Write",
        "predict.max_new_tokens=16",
        "tracking=off",
        "runtime=cpu",
        f"runtime.precision={precision}",
    ]
    one, two = succeeded(here(*command, "task.in_process=true")), succeeded(workspace(*command, "parallel=tp2"))
    assert one.out == two.out != ""
    assert "tokens/s" in two.err
