"""A checkpoint that several ranks write: each its files into a directory beside the target, and then what it says of
them; rank 0 waits for all and takes them over. Never imports mindspore.

On several machines the directory lies on storage that they share.
"""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.storage.json_files import read_json, write_json
from dscoder_exp.training.state import RESUME

POLL = 0.02  # seconds


@dataclass(frozen=True)
class Shards:
    """What one rank wrote of a checkpoint.

    Attributes:
        weights: file -> tensor -> SHA-256 (hex) of what it holds of it; empty where another rank writes them.
        moments: file -> what is recorded of it (moments.py); empty in a checkpoint of the weights alone.
    """

    weights: dict[str, dict[str, str]]
    moments: dict[str, Any]


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

    def leave(self, target: Path, shards: Shards) -> None:
        """Tell rank 0 that all of this rank's files are written."""
        told = self._told(target, self._rank)
        write_json(told.with_suffix(".tmp"), asdict(shards))
        told.with_suffix(".tmp").rename(told)

    def take(self, target: Path, directory: Path) -> list[Shards]:
        """Those of the other ranks, in order, once each has left; their files now lie in `directory`.

        A rank that fails ends the job, and with it this wait.
        """
        found = []
        for rank in range(1, self._ranks):
            told = self._told(target, rank)
            while not told.is_file():
                time.sleep(POLL)
            shards = Shards(**read_json(told, RESUME))
            for name in (*shards.weights, *shards.moments):
                (self.directory(target) / name).rename(directory / name)
            found.append(shards)
        shutil.rmtree(self.directory(target), ignore_errors=True)
        return found

    def _told(self, target: Path, rank: int) -> Path:
        return self.directory(target) / f"rank-{rank:02d}.json"
