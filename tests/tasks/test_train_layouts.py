"""A run goes on in any other layout to the same end, and two ranks that share a model answer as one."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from processes import Ended
from safetensors.numpy import load_file
from tasks_support import FIVE_STEPS, MOVED, Room, done

pytestmark = pytest.mark.slow


def steps_of(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").glob("step-*"))


def through(room: Room, name: str, legs: Sequence[tuple[int, str]], *how: str) -> tuple[Path, Ended]:
    """Five steps, each leg in its own layout (what it types) up to a step; the whole run's directory, and its last leg.

    A leg runs to the end, so that its schedule is the run's, and what it saved after its last step is taken away.
    """
    directory, ended = room.directory / "runs" / name, None
    for last, layout in legs:
        own = [
            "tracking=off",
            f"output_dir=runs/{name}",
            "train.resume=auto",
            "train.save_every=1",
            "train.keep_last=null",
        ]
        ended = done(room(*FIVE_STEPS, *layout.split(), *how, *own))
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
    """assert_close(found, expected): weights in files."""

    def check(found: Path, expected: Path) -> None:
        weights, reference = load_file(found), load_file(expected)
        assert weights.keys() == reference.keys()
        for name, array in reference.items():
            assert_learnt_alike(weights[name], array, **MOVED, name=name)

    return check


def test_four_ranks_two_and_one_go_on_from_each_other(
    room: Room, whole: Ended, assert_close: Callable[[Path, Path], None]
) -> None:
    legs = [
        (2, "parallel=dp2"),
        (4, "parallel=dp2_tp2"),
        (5, "parallel=single train.micro_batch_size=2"),
    ]
    directory, ended = through(room, "legs", legs)
    assert eval_loss(ended) == eval_loss(whole)
    cut = directory / "checkpoints" / "step-000004"
    assert {path.name for path in cut.glob("*.safetensors")} == {
        *(f"model-rank-{rank:02d}-of-02.safetensors" for rank in range(2)),
        *(f"optimizer-rank-{rank:02d}-of-04.safetensors" for rank in range(4)),
    }
    assert not list(directory.glob("checkpoints/.*"))
    last = "checkpoints/step-000005/model.safetensors"
    assert_close(directory / last, room.directory / "runs/whole" / last)


def test_two_ranks_answer_as_one(room: Room, untrained: Path) -> None:
    model = f"model.path={untrained}"
    command = [
        "task=predict",
        model,
        "predict.prompt=Write",
        "predict.max_new_tokens=40",
        "tracking=off",
        "runtime=cpu",
    ]
    answers = [done(room(*command, f"parallel={parallel}")) for parallel in ("single", "tp2")]
    assert answers[0].out == answers[1].out != ""
    assert "tokens/s" in answers[1].err
