"""A run's directory of checkpoints: step-000123, with `last` and `best` as relative links. Never imports mindspore.

A copy of it (cp -rL, rsync -L, an object store) has directories in the links' places, or nothing; a copy that was
broken off has checkpoints with files missing. Nothing that was in it is lost when the links are made again.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import Refused
from dscoder_exp.storage.file_names import ADAPTER_FILE, CHECKPOINT_FILE
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.training.state import RESUME, STATE_FILE

LAST, BEST = "last", "best"
STEP = re.compile(r"step-(\d{6,})")
RECORDS = (CHECKPOINT_FILE, ADAPTER_FILE, STATE_FILE)  # by their hashes they tell all the other files


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def step_directories(directory: Path) -> list[Path]:
    """The step-* of a directory of checkpoints, oldest first."""
    return sorted((path for path in directory.glob("step-*") if STEP.fullmatch(path.name)), key=_number)


def newest_first(directory: Path) -> list[Path]:
    """All checkpoints, whole or not, the newest first; of a step's the one by the step's name, then copied links."""
    copied = [(step, path) for path in _copied_links(directory) if (step := _step_of(path)) is not None]
    named = [(_number(path), path) for path in step_directories(directory)]
    return [path for _, path in sorted([*copied, *named], key=lambda item: item[0])[::-1]]


def restore(checkpoint: Path, step: int, best_loss: float | None) -> list[str]:
    """Bring a copied directory of checkpoints into order: the links are links, and no later step's name is taken.

    Args:
        checkpoint: the newest whole one, which the run goes on from.
        step: its step.
        best_loss: the lowest eval loss so far; `best` is made again if the checkpoint that has it is there.

    Returns:
        What was renamed since it isn't whole, a sentence each.
    """
    directory, named = checkpoint.parent, checkpoint.with_name(step_name(step))
    messages: list[str] = []

    def set_aside(path: Path) -> None:
        messages.append(f"{path} isn't whole: renamed {_set_aside(path, 'incomplete').name}")

    if checkpoint != named:  # last or best
        if named.exists():
            set_aside(named)
        checkpoint.rename(named)
    best = named.name if checkpoint.name == BEST else None
    for copied in list(_copied_links(directory)):
        found = _step_of(copied)
        best = step_name(found) if copied.name == BEST and found is not None else best
        if found is not None and found > step:
            set_aside(copied)
        else:
            _resolve(copied)
    for path in step_directories(directory):
        if _number(path) > step:
            set_aside(path)
    link(directory / LAST, named.name)
    _restore_best(directory, best, best_loss)
    return messages


def _restore_best(directory: Path, name: str | None, loss: float | None) -> None:
    """Link `best` to the checkpoint of that name, which a copied link had, else to the one with that eval loss."""
    if (directory / BEST).exists():
        return
    steps = step_directories(directory)
    chosen = [path for path in steps if path.name == name]
    chosen = chosen or [path for path in steps if loss is not None and _record(path).get("eval_loss") == loss]
    if chosen:
        link(directory / BEST, chosen[-1].name)


def link(path: Path, target: str) -> None:
    """Point the link `path` at its sibling `target` in one step: a reader finds the old one or the new one."""
    if path.is_dir() and not path.is_symlink():
        _resolve(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)


def remove(checkpoint: Path, name: str = "") -> None:
    """Remove a checkpoint under another name first: a half-deleted one must not look like a checkpoint.

    Args:
        name: the step's that it is a copy of; "": its own.
    """
    partial = checkpoint.with_name(f".{name or checkpoint.name}.partial")
    checkpoint.rename(partial)
    shutil.rmtree(partial)


def _copied_links(directory: Path) -> Iterator[Path]:
    return (path for name in (LAST, BEST) if (path := directory / name).is_dir() and not path.is_symlink())


def _resolve(copied: Path) -> None:
    """Give a directory in a link's place its step's name; a mere copy of that step's is removed."""
    step = _step_of(copied)
    if step is None:
        _set_aside(copied, "copy")
    elif not (named := copied.with_name(step_name(step))).exists():
        copied.rename(named)
    elif _same(copied, named):
        remove(copied, f"{named.name}.{copied.name}")
    else:
        _set_aside(copied, "copy")


def _same(copied: Path, named: Path) -> bool:
    """Whether all of `copied` is in `named`, too: the records are equal, and so is each file's size."""
    if any(_content(copied / name) != _content(named / name) for name in RECORDS):
        return False
    sizes = {file.name: file.stat().st_size for file in named.iterdir()}
    return all(sizes.get(file.name) == file.stat().st_size for file in copied.iterdir())


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _set_aside(path: Path, word: str) -> Path:
    """Rename it to a free name such as step-000008.incomplete, which isn't a checkpoint's."""
    names = [f"{path.name}.{word}", *(f"{path.name}.{word}-{number}" for number in range(2, 1000))]
    free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(free)


def _step_of(checkpoint: Path) -> int | None:
    if STEP.fullmatch(checkpoint.name):
        return _number(checkpoint)
    step = _record(checkpoint).get("step")
    return step if isinstance(step, int) else None


def _number(named: Path) -> int:
    return int(named.name.removeprefix("step-"))


def _record(checkpoint: Path) -> dict[str, Any]:
    """The step and eval loss that a checkpoint's record has; empty if it can't be read."""
    for name in (STATE_FILE, CHECKPOINT_FILE, ADAPTER_FILE):
        try:
            values = read_json(checkpoint / name, RESUME)
        except Refused:
            continue
        lineage = values if name == STATE_FILE else values.get("lineage")
        if isinstance(lineage, dict) and "step" in lineage:
            return lineage
    return {}
