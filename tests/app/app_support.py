"""The real command, run in a directory of its own."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from processes import Ended, Started

HERE = Path(__file__).parent


@dataclass
class Command:
    """`python -m dscoder_exp` in `directory`; `path` goes before everything else on its PYTHONPATH."""

    directory: Path
    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> Started:
        home, printed = self.directory.parent / "home", self.directory.parent / "printed"
        for directory in (home, printed):
            directory.mkdir(exist_ok=True)
        mine = {"PYTHONPATH": str(self.path), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        command = [sys.executable, "-m", "dscoder_exp", *arguments]
        return Started(command, self.directory, printed, mine | self.environment)

    def __call__(self, *arguments: str) -> Ended:
        return self.start(*arguments).wait()

    def left(self) -> list[str]:
        """What the command left behind, in its directory and in the user's home."""
        roots = (self.directory, self.directory.parent / "home")
        return [str(path) for root in roots for path in root.rglob("*")]
