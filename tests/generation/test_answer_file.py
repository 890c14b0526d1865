"""The file of answers: kept as they come, in order at the end, taken up again, and never lost."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dscoder_exp.data.requests import PromptRow
from dscoder_exp.generation.answer_file import AnswerFile, answered_rows, output_problem, partial_of
from dscoder_exp.schema.errors import Refused
from dscoder_exp.storage.disk_space import DiskFull

ORIGIN = {"seed": 0, "the content of predict.input": "a hash", "predict.top_k": None}
ROWS = [PromptRow({"id": number, "prompt": "你 \ud800"}, np.array([1], np.int32)) for number in range(3)]


def answer(text: str) -> dict[str, Any]:
    return {"text": text, "tokens": 2}


def test_answers_are_written_in_the_rows_order(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "new" / "a.jsonl", ORIGIN) as file:
        for number in (2, 0, 1):
            file.add((number, 0), answer(str(number)))
        assert not (tmp_path / "new" / "a.jsonl").exists()
        file.finish(answered_rows(ROWS, 1, file.answers))
    lines = [json.loads(line) for line in (tmp_path / "new" / "a.jsonl").read_text().splitlines()]
    assert lines == [{**row.fields, **answer(str(number))} for number, row in enumerate(ROWS)]
    assert [found.name for found in (tmp_path / "new").iterdir()] == ["a.jsonl"]


def test_samples_stand_beside_each_other(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "a.jsonl", ORIGIN) as file:
        for place in [(1, 1), (0, 0), (0, 1), (1, 0)]:
            file.add(place, answer(str(place)))
        file.finish(answered_rows(ROWS[:2], 2, file.answers))
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["id"], line["sample"], line["text"]) for line in lines] == [
        (number, sample, str((number, sample))) for number in (0, 1) for sample in (0, 1)
    ]


@pytest.mark.parametrize("torn", [b"", b'{"row": 1, "sam', b'{"row": 1, "sample": 0, "answer": {}}', b"\0\0\0\n"])
def test_what_a_killed_run_left_is_taken_up(tmp_path: Path, torn: bytes) -> None:
    output = tmp_path / "a.jsonl"
    with AnswerFile(output, ORIGIN) as file:
        file.add((0, 0), answer("zero"))
    with partial_of(output).open("ab") as left:
        left.write(torn)
    with AnswerFile(output, ORIGIN) as file:
        assert file.answers == {(0, 0): answer("zero")}
        file.add((1, 0), answer("one"))
    with AnswerFile(output, ORIGIN) as file:
        assert file.answers == {(0, 0): answer("zero"), (1, 0): answer("one")}


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    with AnswerFile(output, ORIGIN) as file:
        file.add((0, 0), answer("zero"))
    with pytest.raises(Refused) as refused:
        AnswerFile(output, {**ORIGIN, "seed": 1, "the content of predict.input": "another"})
    assert "begun, and would go on, with other settings: seed, the content of predict.input" in str(refused.value)
    assert f"remove {output}.partial to begin anew" in str(refused.value)
    assert output_problem(output, ORIGIN) is None


def test_a_whole_output_is_refused_and_stays(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    output.write_text("mine\n")
    with pytest.raises(Refused, match="exists already"):
        AnswerFile(output, ORIGIN)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.jsonl", "mine\n")]


@pytest.mark.parametrize("content", ['{"mine": 1}\n', "mine"])
def test_a_foreign_file_is_not_taken_for_unfinished_answers(tmp_path: Path, content: str) -> None:
    foreign = partial_of(tmp_path / "a.jsonl")
    foreign.write_text(content)
    with pytest.raises(Refused, match="where unfinished answers are kept, is another file"):
        AnswerFile(tmp_path / "a.jsonl", ORIGIN)
    assert foreign.read_text() == content


@pytest.mark.parametrize("begun", ["", '{"ori', '{"origin": {"seed": 0'])
def test_a_first_line_that_was_cut_short_is_begun_anew(tmp_path: Path, begun: str) -> None:
    partial_of(tmp_path / "a.jsonl").write_text(begun)
    with AnswerFile(tmp_path / "a.jsonl", ORIGIN) as file:
        assert file.answers == {}


def test_two_processes_dont_write_one_output(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "a.jsonl", ORIGIN), pytest.raises(Refused, match="another process is writing"):
        AnswerFile(tmp_path / "a.jsonl", ORIGIN)


def test_a_place_that_cant_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"predict\.output: .*can't be written"):
        AnswerFile(tmp_path / "file" / "a.jsonl", ORIGIN)


def test_a_full_disk_names_the_output_and_keeps_what_is_there(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    with pytest.raises(DiskFull) as full, AnswerFile(output, ORIGIN) as file:  # noqa: PT012
        file.add((0, 0), answer("zero"))
        file._file = Full(file._file)  # type: ignore[assignment]
        file.add((1, 0), answer("one"))
    assert full.value.key == "predict.output"
    with AnswerFile(output, ORIGIN) as file:
        assert file.answers == {(0, 0): answer("zero")}


class Full:
    """A file on a disk that has room for three bytes more."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        self._file.write(line[:3])

    def flush(self) -> None:
        self._file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        self._file.close()
