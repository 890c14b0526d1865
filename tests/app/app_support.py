"""Running `python -m dscoder_exp` in a directory of its own."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from processes import Ended, Started

HERE = Path(__file__).parent


@dataclass
class Command:
    """`python -m dscoder_exp` in `directory`; `path` comes first on its PYTHONPATH."""

    directory: Path
    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> Started:
        home, printed = self.directory.parent / "home", self.directory.parent / "printed"
        for directory in (home, printed):
            directory.mkdir(exist_ok=True)
        python_path = os.pathsep.join([str(self.path), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {"PYTHONPATH": python_path, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        command = [sys.executable, "-m", "dscoder_exp", *arguments]
        return Started(command, self.directory, printed, variables | self.environment)

    def __call__(self, *arguments: str) -> Ended:
        return self.start(*arguments).wait()

    def leftovers(self) -> list[str]:
        """The files and directories that the command left in its directory and in the user's home."""
        roots = (self.directory, self.directory.parent / "home")
        return [str(path) for root in roots for path in root.rglob("*")]
