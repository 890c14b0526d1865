"""The spool: what rank 0 writes is read as it was, whoever is killed and whatever the disk does."""

import errno
import json
import logging
import math
import os
import shutil
from pathlib import Path

import pytest

from dscoder_exp.storage.disk_space import DiskFull
from dscoder_exp.tracking import spool
from dscoder_exp.tracking.run import SpooledRun
from dscoder_exp.tracking.spool import LostRecords, Writer, read


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return spool.spool_directory(str(tmp_path), "0a")


class Disk:
    """os.write of a disk that is full, or has room for a few bytes more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, file: int, content: bytes) -> int:
        if self.room is None:
            return self._write(file, content)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(file, bytes(content[: self.room]))
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_records_are_read_as_they_were_written(directory: Path, tmp_path: Path) -> None:
    assert read(directory, 0) == []
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"png")
    with SpooledRun(directory) as run:
        run.metrics({"train/loss": 0.1 + 0.2, "train/lr": math.inf}, 3)
        run.params({"shape.layers": 30, "shape.tied": True})
        run.tags({"checkpoint": "a\nb"})
        run.text("é\n", "predictions/before.md")
        run.artifact(picture, "data")
        picture.write_bytes(b"changed")
        run.artifact(picture)
        run.dataset({"name": "rows", "digest": "0a"})
    metrics, *others = read(directory, 0)
    assert metrics.fields["values"] == {"train/loss": 0.1 + 0.2, "train/lr": math.inf}
    assert metrics.fields["step"] == 3
    assert [(record.kind, {**record.fields}) for record in others] == [
        ("params", {"values": {"shape.layers": "30", "shape.tied": "true"}}),
        ("tags", {"values": {"checkpoint": "a\nb"}}),
        ("text", {"text": "é\n", "path": "predictions/before.md"}),
        ("artifact", {"path": "files/0/picture.png", "folder": "data"}),
        ("artifact", {"path": "files/1/picture.png", "folder": None}),
        ("dataset", {"values": {"name": "rows", "digest": "0a"}, "context": "training"}),
    ]
    assert (directory / "files/0/picture.png").read_bytes() == b"png"
    assert read(directory, metrics.end, limit=2) == others[:2]
    assert read(directory, others[-1].end) == []


def test_a_line_that_a_killed_writer_began_is_left_out(directory: Path) -> None:
    with SpooledRun(directory) as run:
        run.metrics({"train/loss": 1.0}, 1)
    with (directory / spool.RECORDS).open("ab") as file:
        file.write(b'{"kind": "metrics", "val')
    assert [record.fields["step"] for record in read(directory, 0)] == [1]
    with SpooledRun(directory) as run:  # the resumed job's
        run.metrics({"train/loss": 2.0}, 2)
    first, torn, second = read(directory, 0)
    assert (first.fields["step"], torn.kind, second.fields["step"]) == (1, spool.TORN, 2)


def test_a_full_disk_costs_nothing_once_there_is_room(
    directory: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    with SpooledRun(directory) as run:
        disk.room = 20  # a part of a line
        for step in (1, 2, 3):
            run.metrics({"train/loss": 1.0}, step)
        assert read(directory, 0) == []
        disk.room = None
        run.metrics({"train/loss": 1.0}, 4)
    assert [record.fields["step"] for record in read(directory, 0)] == [1, 2, 3, 4]
    (record,) = caplog.records
    assert f"{directory / spool.RECORDS} can't be written, to be retried" in record.message


def test_what_a_full_disk_loses_is_an_error(directory: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    def work(error: Exception | None) -> None:
        with SpooledRun(directory) as run:
            disk.room = 0
            run.metrics({"train/loss": 1.0}, 1)
            run.text("a", "b")
            if error is not None:
                raise error

    with pytest.raises(LostRecords, match=r"2 records were not written to .*records\.jsonl: .*No space left"):
        work(None)
    disk.room = None
    with pytest.raises(ZeroDivisionError):  # the first error is the one raised
        work(ZeroDivisionError())
    assert caplog.records[-1].levelno == logging.ERROR
    assert "the end of the run was not logged: 2 records" in caplog.records[-1].message


def test_an_artifact_on_a_full_disk_names_the_place(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").touch()
    monkeypatch.setattr(shutil, "copy2", full)
    with SpooledRun(directory) as run, pytest.raises(DiskFull, match="mlflow-spool/0a/files"):
        run.artifact(tmp_path / "file")


def test_a_damaged_position_means_from_the_start(directory: Path) -> None:
    Writer(directory).close()
    assert spool.read_sent(directory) == 0
    spool.write_sent(directory, 17)
    assert spool.read_sent(directory) == 17
    (directory / spool.SENT).write_text("")
    assert spool.read_sent(directory) == 0


def test_records_are_described(directory: Path) -> None:
    writer = Writer(directory)
    for step in (1, 2, 3):
        writer.append(spool.METRICS, values={"train/loss": 1.0, "train/lr": 1.0}, step=step, time_ms=0)
    writer.append(spool.TEXT, text="a", path="predictions/before.md")
    writer.append(spool.ARTIFACT, path="files/0/data.png", folder=None)
    writer.append(spool.TAGS, values={"checkpoint": "x"})
    writer.append(spool.DATASET, values={})
    writer.close()
    expected = "6 metrics of steps 1 to 3, predictions/before.md, data.png, tags checkpoint, dataset"
    assert spool.describe_records(read(directory, 0)) == expected
    assert json.loads((directory / spool.RECORDS).read_text().splitlines()[0])["kind"] == "metrics"


def test_the_folder_is_deleted_with_the_last_spool(directory: Path) -> None:
    other = directory.with_name("0b")
    for each in (directory, other):
        Writer(each).close()
    assert spool.spools(str(directory.parents[1])) == [directory, other]
    spool.remove(directory)
    assert directory.parent.exists()
    spool.remove(other)
    assert not directory.parent.exists()
