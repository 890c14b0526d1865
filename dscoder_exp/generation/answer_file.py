"""A file of answers, and the one beside it in which a task keeps them until all are there."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from dscoder_exp.data.requests import PromptRow
from dscoder_exp.data.source import digest
from dscoder_exp.data.text_files import read_chunks
from dscoder_exp.schema.config import TEMPLATE_FILE, Config
from dscoder_exp.schema.errors import Problem, Refused, refuse
from dscoder_exp.storage.atomic_file import atomic_file
from dscoder_exp.storage.disk_space import NO_SPACE, naming_full_disk

KEY = "predict.output"
# Keys of `predict` on which no answer depends, or that a file of prompts doesn't have
FREE_KEYS = ("input", "output", "batch_size", "interactive", "prompt", "prefix", "suffix")
FIRST = b'{"origin": '  # how a file of unfinished answers begins
Place = tuple[int, int]  # number of a row and of a sample, from 0


def origin_of(config: Config) -> dict[str, Any]:
    """What the answers of task=predict depend on, by config key: a run goes on only where all of it is as it was."""
    predict = {f"predict.{name}": value for name, value in asdict(config.predict).items() if name not in FREE_KEYS}
    template = config.predict.template
    files = {"predict.input": config.predict.input, "predict.template": template}
    if not template.endswith(TEMPLATE_FILE):  # a format's name
        del files["predict.template"]
    contents = {content_key(key): content_of(file) for key, file in files.items()}
    return {**model_origin(config), **predict, **contents}


def model_origin(config: Config) -> dict[str, Any]:
    """The part of an origin that the model and its random numbers are."""
    model = {f"model.{name}": value for name, value in asdict(config.model).items()}
    others = {"tokenizer.path": config.tokenizer.path, "adapter.path": config.adapter.path, "seed": config.seed}
    found = {**model, **others, "runtime.precision": config.runtime.precision}
    for key in [key for key in found if key.endswith(".path") and found[key] and "://" not in found[key]]:
        path = Path(os.path.realpath(found[key]))  # checkpoints/last may be another one later
        found[key], found[content_key(key)] = str(path), _files(path)
    if (template := config.model.template) is not None and template.endswith(TEMPLATE_FILE):
        found[content_key("model.template")] = content_of(template)
    return json.loads(json.dumps(found))


def content_key(key: str) -> str:
    """The name in an origin of what the file at a config key holds."""
    return f"the content of {key}"


def content_of(path: str | None) -> str:
    """A hash of a file's content, for an origin."""
    return digest(read_chunks(Path(path or os.devnull)))


def output_problem(output: Path, origin: Mapping[str, Any], key: str = KEY) -> Problem | None:
    """Why `output` can't be written: it is there already, or was begun otherwise; key: the config key that names it."""
    if output.exists():
        return Problem(key, f"{output} exists already", f"remove it, or choose another {key}")
    partial = partial_of(output)
    begun = _read(partial)[0] if partial.is_file() else None
    if begun is None and partial.is_file() and _is_foreign(partial):
        what = f"{partial}, where unfinished answers are kept, is another file"
        return Problem(key, what, f"rename it, or choose another {key}")
    if begun is None or begun == origin:
        return None
    names = [name for name in {**begun, **origin} if begun.get(name) != origin.get(name)]
    what = f"{output} was begun, and would go on, with other settings: {', '.join(names)}"
    return Problem(key, what, f"the settings that it was begun with, or remove {partial} to begin anew")


def partial_of(output: Path) -> Path:
    """Where answers are kept until all are there."""
    return output.with_name(f"{output.name}.partial")


class AnswerFile:
    """Keeps answers beside `output` as they come, in any order, and writes `output` once all are there.

    Lines of the file beside it: {"origin": …}, then {"row": n, "sample": n, "answer": {…}} each; a later line adds to
    an earlier one. A line that a killed process, or a full disk, has cut short is dropped.

    Attributes:
        answers: those that are kept, by row and sample.
    """

    def __init__(self, output: Path, origin: Mapping[str, Any], key: str = KEY) -> None:
        """
        Args:
            key: the config key that names the output.

        Raises:
            Refused: the output exists, was begun otherwise, is being written by another process, or can't be written.
        """
        self._output, self._partial, self._key = output, partial_of(output), key
        _refuse(output_problem(output, origin, key))
        try:
            with naming_full_disk(self._partial, key):
                self._partial.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._partial.open("ab")
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            what = f"{output} can't be written: {error.strerror}"
            raise refuse(key, what, f"choose another {key}, in a writable directory") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refuse(key, f"another process is writing {output}", f"choose another {key}") from None
        _refuse(output_problem(output, origin, key))  # another process may have written it meanwhile
        begun, self.answers, end = _read(self._partial)
        self._file.truncate(end)
        if begun is None:
            self._write({"origin": origin})

    def add(self, place: Place, answer: Mapping[str, Any]) -> None:
        """Keep an answer, or more of one.

        Raises:
            DiskFull: there is no room for it; those before it are kept.
        """
        self._write({"row": place[0], "sample": place[1], "answer": answer})
        self.answers.setdefault(place, {}).update(answer)

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the output, and remove what was kept beside it."""
        with naming_full_disk(self._output, self._key), atomic_file(self._output) as path, path.open("wb") as file:
            file.writelines(map(_line, lines))
        self._partial.unlink()

    def _write(self, value: Mapping[str, Any]) -> None:
        with naming_full_disk(self._partial, self._key):
            self._file.write(_line(value))
            self._file.flush()

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which `add` has raised already
            self._file.close()


def answered_rows(
    rows: Sequence[PromptRow], samples: int, answers: Mapping[Place, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each row of predict.input with its answers, `samples` lines, in the rows' order."""
    for number, row in enumerate(rows):
        for sample in range(samples):
            yield {**row.fields, **which_sample(sample, samples), **answers[number, sample]}


def which_sample(sample: int, samples: int) -> dict[str, int]:
    """The field that says which of several answers to a prompt it is; none where there is one."""
    return {"sample": sample} if samples > 1 else {}


def kept_answers(output: Path) -> dict[Place, dict[str, Any]]:
    """The answers that are kept beside `output`; none if there is no such file."""
    partial = partial_of(output)
    return _read(partial)[1] if partial.is_file() else {}


def _refuse(problem: Problem | None) -> None:
    if problem is not None:
        raise Refused([problem])


def _read(partial: Path) -> tuple[dict[str, Any] | None, dict[Place, dict[str, Any]], int]:
    """The origin, None if there is none yet; the answers; and where the last whole line ends."""
    origin, answers, end = None, {}, 0
    with partial.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
                if not line.endswith(b"\n"):
                    break
                if origin is None:
                    origin = value["origin"]
                else:
                    answers.setdefault((value["row"], value["sample"]), {}).update(value["answer"])
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
    return origin, answers, end


def _is_foreign(partial: Path) -> bool:
    """Whether the file isn't empty and begins otherwise than one of ours, as far as that was written."""
    with partial.open("rb") as file:
        head = file.read(len(FIRST))
    return not FIRST.startswith(head)


def _files(path: Path) -> str:
    """A digest of the names, sizes and times of change of a file, or of the files in a directory."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return digest([json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]).encode()])


def _line(value: Mapping[str, Any]) -> bytes:
    try:
        return f"{json.dumps(value, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # a field that isn't read may hold half a character
        return f"{json.dumps(value)}\n".encode()
