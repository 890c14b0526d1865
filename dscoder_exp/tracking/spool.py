"""What a job logs, on disk: rank 0 appends records, the launcher's process reads them and hands them on to MLflow.

OUTPUT_DIR/mlflow-spool/RUN_ID/, deleted once MLflow has everything:

records.jsonl   one JSON object a line, in the order of logging; the writer of the last line may have been killed
files/N/        copies of artifacts, so that a job may log temporary files
sent            how many bytes of records.jsonl MLflow has

Never imports mlflow.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from dscoder_exp.storage.disk_space import naming_full_disk

log = logging.getLogger(__name__)
FOLDER, RECORDS, SENT = "mlflow-spool", "records.jsonl", "sent"
METRICS, PARAMS, TAGS, TEXT, ARTIFACT, DATASET = "metrics", "params", "tags", "text", "artifact", "dataset"
TORN = "torn"  # a line that its writer, killed meanwhile, did not finish


class LostRecords(RuntimeError):
    """Records that are not in MLflow when the job ends."""


class Record(NamedTuple):
    """One line of a spool.

    Attributes:
        end: its end, in bytes from the start of the file.
        kind: one of the constants METRICS to DATASET, or TORN.
        fields: what `Writer.append` was given.
    """

    end: int
    kind: str
    fields: Mapping[str, Any]


def spool_directory(output_dir: str, run_id: str) -> Path:
    return Path(output_dir, FOLDER, run_id)


def spools(output_dir: str) -> list[Path]:
    """The spools that jobs have left in an output directory; each is named by its run."""
    return sorted(path.parent for path in Path(output_dir, FOLDER).glob(f"*/{RECORDS}"))


class Writer:
    """Appends records. Those that don't fit on the disk are kept in memory and written with the next ones."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = Lock()
        self._unwritten = bytearray()
        self._failure: OSError | None = None
        with naming_full_disk(directory, "output_dir"):
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(directory / RECORDS, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._unwritten += b"\n"  # ends the line that an earlier job's killed writer has begun

    def append(self, kind: str, **fields: Any) -> None:
        """Write a record; fields: values that JSON can represent, NaN and infinity included."""
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        with self._lock:
            self._unwritten += line
            try:
                self._write()
            except OSError as error:
                if self._failure is None:
                    log.warning("%s can't be written, to be retried: %s", self.directory / RECORDS, error)
                self._failure = error
            else:
                self._failure = None

    def keep(self, path: Path) -> str:
        """Copy a file or a directory into the spool; returns the copy's path there.

        Raises:
            DiskFull: it doesn't fit.
        """
        files = self.directory / "files"
        with naming_full_disk(files, "output_dir"):
            files.mkdir(exist_ok=True)
            folder = files / str(sum(1 for _ in files.iterdir()))
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            else:
                folder.mkdir()
                shutil.copy2(path, folder)
        return str((folder / path.name).relative_to(self.directory))

    def close(self) -> LostRecords | None:
        """Write what could not be written before; returns an error that says what could not be written now, either."""
        try:
            self._write()
        except OSError as error:
            lines = sum(map(bool, bytes(self._unwritten).splitlines()))
            return LostRecords(f"{lines} records were not written to {self.directory / RECORDS}: {error}")
        finally:
            os.close(self._file)
        return None

    def _write(self) -> None:
        while self._unwritten:
            del self._unwritten[: os.write(self._file, self._unwritten)]


def read(directory: Path, start: int, limit: int | None = None) -> list[Record]:
    """The next whole lines of a spool.

    Args:
        start: where to begin: the `end` of an earlier record, or 0.
        limit: the largest number of records; None: all.
    """
    records, end = [], start
    try:
        file = (directory / RECORDS).open("rb")
    except FileNotFoundError:  # the job hasn't logged anything yet
        return []
    with file:
        file.seek(start)
        for line in islice(file, limit):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            records.append(_parsed(line, end))
    return records


def read_sent(directory: Path) -> int:
    """Where the first record that MLflow doesn't have yet begins, in bytes."""
    try:
        return int((directory / SENT).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def write_sent(directory: Path, end: int) -> None:
    partial = directory / f".{SENT}.partial"
    partial.write_text(str(end))
    partial.replace(directory / SENT)


def remove(directory: Path) -> None:
    """Delete a spool, and the folder of spools with the last of them."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.parent.is_dir() and not any(directory.parent.iterdir()):
        directory.parent.rmdir()


def describe_records(records: Sequence[Record]) -> str:
    """Records, for a message: `6 metrics of steps 1 to 3, predictions/before.md`."""
    metrics = [record.fields for record in records if record.kind == METRICS]
    parts = []
    if metrics:
        steps = [fields["step"] for fields in metrics]
        count = sum(len(fields["values"]) for fields in metrics)
        parts.append(f"{count} metrics of steps {min(steps)} to {max(steps)}")
    for record in records:
        if record.kind == TEXT:
            parts.append(record.fields["path"])
        elif record.kind == ARTIFACT:
            parts.append(Path(record.fields["path"]).name)
        elif record.kind in (PARAMS, TAGS):
            parts.append(f"{record.kind} {', '.join(record.fields['values'])}")
        elif record.kind == DATASET:
            parts.append(DATASET)
    return ", ".join(parts)


def _parsed(line: bytes, end: int) -> Record:
    try:
        fields = json.loads(line)
        return Record(end, fields.pop("kind"), fields)
    except (ValueError, KeyError, AttributeError):
        return Record(end, TORN, {})
