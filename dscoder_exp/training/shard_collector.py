"""A checkpoint that several ranks write: each its files into a directory beside the target, and then what it says of
them; rank 0 waits for all and takes them over. Never imports mindspore.

On several machines the directory lies on storage that they share.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dscoder_exp.training.state import RESUME
from dscoder_exp.weights.formats.hf_config import read_json
from dscoder_exp.weights.native.manifest import write_json

POLL = 0.02  # seconds


class ShardCollector:
    """Of one run's ranks."""

    def __init__(self, token: int, rank: int, ranks: int) -> None:
        """
        Args:
            token: a number that all ranks of this run have, and no other run: what that one left is not taken for ours.
        """
        self._token, self._rank, self._ranks = token, rank, ranks

    def directory(self, target: Path) -> Path:
        return target.with_name(f".{target.name}.{self._token:08x}.partial")

    def begin(self, target: Path) -> Path:
        """Where this rank writes its files."""
        self.directory(target).mkdir(parents=True, exist_ok=True)
        return self.directory(target)

    def leave(self, target: Path, record: dict[str, Any]) -> None:
        """All of this rank's files are written; `record` says of them what rank 0 is to know, "files" their names."""
        told = self._told(target, self._rank)
        write_json(told.with_suffix(".tmp"), record)
        told.with_suffix(".tmp").rename(told)

    def take(self, target: Path, directory: Path) -> Iterator[dict[str, Any]]:
        """The records of the other ranks, in order, once each has left; their files now lie in `directory`.

        A rank that fails ends the job, and with it this wait.
        """
        for rank in range(1, self._ranks):
            told = self._told(target, rank)
            while not told.is_file():
                time.sleep(POLL)
            record = read_json(told, RESUME)
            for name in record["files"]:
                (self.directory(target) / name).rename(directory / name)
            yield record
        shutil.rmtree(self.directory(target), ignore_errors=True)

    def _told(self, target: Path, rank: int) -> Path:
        return self.directory(target) / f"rank-{rank:02d}.json"
