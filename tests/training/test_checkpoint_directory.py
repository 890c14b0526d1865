"""Directories of checkpoints that were copied: links became directories or are missing, files are missing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from weights_support import TINY, save_checkpoint

from dscoder_exp.schema.errors import Refused
from dscoder_exp.training.checkpoint_directory import link, newest_first, step_directories
from dscoder_exp.training.resume import find_resumed, restore_copied
from dscoder_exp.training.state import TrainingState, write_state
from dscoder_exp.weights.random_init import random_weights

SHAPE = replace(TINY, num_hidden_layers=1)
LOSSES = {2: 1.5, 4: 1.2, 6: 1.3}  # step -> eval loss
Copy = Callable[..., Path]


def config_of(output: Path) -> Any:
    """What finding a checkpoint reads of a configuration."""
    return SimpleNamespace(
        task=SimpleNamespace(name="train"), train=SimpleNamespace(resume="auto"), output_dir=str(output)
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run: three steps, the last one linked as `last`, the second as `best`."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    for step, loss in LOSSES.items():
        checkpoint = directory / f"step-{step:06d}"
        lineage = {"base": "random", "step": step, "eval_loss": loss}
        save_checkpoint(checkpoint, SHAPE, random_weights(SHAPE, seed=step), lineage=lineage)
        save_file({"first": np.full(3, step, np.float32)}, checkpoint / "optimizer.safetensors")
        state = TrainingState(
            step=step,
            skipped=0,
            recipe={},
            run_id=None,
            loss_before=None,
            answers_before=[],
            loss_scale=None,
            eval_loss=loss,
            best_loss=min(LOSSES[before] for before in LOSSES if before <= step),
            optimizer={"ways": 1, "files": {"optimizer.safetensors": {"rank": 0}}},
        )
        write_state(checkpoint, state)
        link(directory / "last", checkpoint.name)
    link(directory / "best", "step-000004")
    return directory


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Copy:
    """copied(*names) -> the checkpoints of a copy whose links are directories; names: all that is copied."""

    def copy(*names: str) -> Path:
        directory = tmp_path / "run" / "checkpoints"
        for name in names or [path.name for path in original.iterdir()]:
            shutil.copytree(original / name, directory / name)
        return directory

    return copy


def contents(directory: Path) -> dict[str, str | None]:
    """Name -> what it links to; None: no link."""
    return {path.name: str(path.readlink()) if path.is_symlink() else None for path in sorted(directory.iterdir())}


def restored(directory: Path) -> tuple[str, list[str]]:
    """The checkpoint that a run goes on from after `restore_copied`, and what that told."""
    config = config_of(directory.parent)
    told = restore_copied(config)
    resumed = find_resumed(config)
    assert resumed is not None
    assert resumed.state.step == int(resumed.checkpoint.name.removeprefix("step-"))
    assert contents(directory)["last"] == resumed.checkpoint.name
    return resumed.checkpoint.name, told


ALL = {"step-000002": None, "step-000004": None, "step-000006": None}
LINKS = {"last": "step-000006", "best": "step-000004"}


def test_directories_in_the_links_places_become_links(copied: Copy) -> None:
    directory = copied()
    assert restored(directory) == ("step-000006", [])
    assert contents(directory) == ALL | LINKS


def test_missing_links_are_made_again(copied: Copy) -> None:
    directory = copied(*ALL)
    assert restored(directory) == ("step-000006", [])
    assert contents(directory) == ALL | LINKS


def test_links_to_what_was_not_copied(copied: Copy) -> None:
    directory = copied("step-000002", "step-000006")
    for name, target in (("last", "step-000008"), ("best", "step-000004")):
        (directory / name).symlink_to(target)
    assert restored(directory) == ("step-000006", [])
    assert contents(directory)["best"] == "step-000004"  # nothing better is known


def test_the_copied_links_alone_are_enough(copied: Copy) -> None:
    directory = copied("last", "best")
    assert restored(directory) == ("step-000006", [])
    assert contents(directory) == {"step-000004": None, "step-000006": None} | LINKS


def test_best_alone(copied: Copy) -> None:
    directory = copied("best")
    assert restored(directory) == ("step-000004", [])
    assert contents(directory) == {"step-000004": None, "last": "step-000004", "best": "step-000004"}


@pytest.mark.parametrize("broken", ["missing", "cut short", "no record", "no state", "damaged state"])
def test_the_newest_whole_checkpoint_is_taken(copied: Copy, broken: str) -> None:
    directory = copied(*ALL)
    newest = directory / "step-000006"
    if broken == "missing":
        (newest / "model.safetensors").unlink()
    elif broken == "cut short":
        file = newest / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
    elif broken == "damaged state":
        (newest / "training.json").write_text('{"step": 6')
    else:
        (newest / ("checkpoint.json" if broken == "no record" else "training.json")).unlink()
    told = f"{newest} isn't whole: renamed step-000006.incomplete"
    assert restored(directory) == ("step-000004", [told])
    assert contents(directory) == {
        "step-000002": None,
        "step-000004": None,
        "step-000006.incomplete": None,  # the run will write step 6 anew
        "last": "step-000004",
        "best": "step-000004",
    }


def test_a_whole_copy_of_last_is_taken_for_a_broken_newest(copied: Copy) -> None:
    directory = copied()
    (directory / "step-000006" / "optimizer.safetensors").unlink()
    told = f"{directory / 'step-000006'} isn't whole: renamed step-000006.incomplete"
    assert restored(directory) == ("step-000006", [told])
    assert contents(directory) == ALL | LINKS | {"step-000006.incomplete": None}


def test_a_broken_copy_of_last_is_set_aside(copied: Copy) -> None:
    directory = copied("step-000002", "last", "best")
    (directory / "last" / "model.safetensors").unlink()
    name, (told,) = restored(directory)
    assert (name, told) == ("step-000004", f"{directory / 'last'} isn't whole: renamed last.incomplete")
    assert contents(directory) == {
        "step-000002": None,
        "step-000004": None,
        "last.incomplete": None,
        "last": "step-000004",
        "best": "step-000004",
    }


def test_a_directory_that_is_no_mere_copy_is_kept(copied: Copy) -> None:
    directory = copied()
    record = directory / "best" / "checkpoint.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"mine": 1}))
    assert restored(directory) == ("step-000006", [])
    assert contents(directory) == ALL | LINKS | {"best.copy": None}


def test_a_link_takes_a_directorys_place_when_a_checkpoint_is_saved(copied: Copy) -> None:
    directory = copied("step-000002", "last")
    link(directory / "last", "step-000002")
    assert contents(directory) == {"step-000002": None, "step-000006": None, "last": "step-000002"}


def test_where_no_checkpoint_is_whole_the_newest_ones_fault_is_told(copied: Copy) -> None:
    directory = copied("step-000002", "step-000004")
    for step in ("step-000002", "step-000004"):
        (directory / step / "optimizer.safetensors").unlink()
    with pytest.raises(Refused) as refused:
        find_resumed(config_of(directory.parent))
    assert f"{directory / 'step-000004' / 'optimizer.safetensors'} is missing" in str(refused.value)


def test_weights_alone_are_no_fault_of_a_copy(copied: Copy) -> None:
    """A run without train.save_every ends so; going on from an older checkpoint would train it again."""
    directory = copied(*ALL)
    for name in ("training.json", "optimizer.safetensors"):
        (directory / "step-000006" / name).unlink()
    with pytest.raises(Refused, match="step-000006 holds weights alone"):
        find_resumed(config_of(directory.parent))


def test_steps_are_ordered_by_number(tmp_path: Path) -> None:
    names = ["step-000009", "step-999999", "step-1000000", ".step-1000001.partial", "step-000010.incomplete", "step-x"]
    for name in names:
        (tmp_path / name).mkdir()
    assert [path.name for path in step_directories(tmp_path)] == ["step-000009", "step-999999", "step-1000000"]
    assert newest_first(tmp_path)[0].name == "step-1000000"
    assert newest_first(tmp_path / "nothing") == []
