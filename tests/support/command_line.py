"""The command line in this process, for what needs no process of its own: it starts in a tenth of the time."""

import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import Ended

from dscoder_exp.app import main
from dscoder_exp.signals import uninterrupted


@dataclass
class CommandLine:
    """command_line(*arguments, stdin=…) -> how `main` ended, in `directory`, with a home directory beside it."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        self.home.mkdir(exist_ok=True)
        self.capsys.readouterr()
        with self.monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("MLFLOW_", "HYDRA_"))]:
                patch.delenv(name)
            home = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
            for name, value in ({"HYDRA_FULL_ERROR": "0"} | home | self.environment).items():
                patch.setenv(name, value)  # main() sets HYDRA_FULL_ERROR; this removes it afterwards
            patch.chdir(self.directory)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
            patch.setattr(sys, "argv", ["dscoder_exp", *arguments])
            with uninterrupted():  # whatever handlers the task sets are gone afterwards
                try:
                    code = main()
                except SystemExit as ended:  # of argparse, and of Hydra's information options
                    code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        out, err = self.capsys.readouterr()
        return Ended(code, out, err)

    @property
    def home(self) -> Path:
        return self.directory.parent / "home"

    def leftovers(self) -> list[str]:
        """The files and directories that the command left in its directory and in the user's home."""
        return [str(path) for root in (self.directory, self.home) for path in root.rglob("*")]
