"""Assembling a checkpoint that several ranks write. Never imports mindspore.

Each other rank writes its files into a directory beside the target, and then a record of them. Rank 0 waits for all
records and moves the files into the checkpoint. On several machines the directory lies on storage that they share.
"""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.storage.json_files import read_json, write_json
from dscoder_exp.training.state import RESUME

POLL = 0.02  # seconds between looks for a rank's record


@dataclass(frozen=True)
class Shards:
    """What one rank wrote of a checkpoint.

    Attributes:
        weights: file -> tensor -> SHA-256 (hex) of the rank's part of it; empty where another rank writes the weights.
        moments: file -> its record (moments.py); empty in a checkpoint of the weights alone.
    """

    weights: dict[str, dict[str, str]]
    moments: dict[str, Any]


class ShardCollector:
    """Moves the files of a run's other ranks into rank 0's checkpoint."""

    def __init__(self, token: int, rank: int, ranks: int) -> None:
        """
        Args:
            token: random number that the ranks of this run share: files that another run left are not collected.
            rank: this process's global rank, of `ranks`.
        """
        self._token, self._rank, self._ranks = token, rank, ranks

    def directory(self, target: Path) -> Path:
        """Where ranks other than 0 write their files of checkpoint `target`."""
        return target.with_name(f".{target.name}.{self._token:08x}.partial")

    def create_directory(self, target: Path) -> Path:
        """Create `directory` and return it."""
        self.directory(target).mkdir(parents=True, exist_ok=True)
        return self.directory(target)

    def publish(self, target: Path, shards: Shards) -> None:
        """Write this rank's record, atomically, once all of its files are written."""
        record = self._record(target, self._rank)
        write_json(record.with_suffix(".tmp"), asdict(shards))
        record.with_suffix(".tmp").rename(record)

    def collect(self, target: Path, directory: Path) -> list[Shards]:
        """Wait for the other ranks' records, move their files into `directory`; returns their shards by rank.

        It waits without a limit: a rank that fails ends the whole job.
        """
        collected = []
        for rank in range(1, self._ranks):
            record = self._record(target, rank)
            while not record.is_file():
                time.sleep(POLL)
            shards = Shards(**read_json(record, RESUME))
            for name in (*shards.weights, *shards.moments):
                (self.directory(target) / name).rename(directory / name)
            collected.append(shards)
        shutil.rmtree(self.directory(target), ignore_errors=True)
        return collected

    def _record(self, target: Path, rank: int) -> Path:
        return self.directory(target) / f"rank-{rank:02d}.json"
