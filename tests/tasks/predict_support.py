"""Running task=predict in this process, through the command line's own checks."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dscoder_exp.app import main
from dscoder_exp.signals import uninterrupted

TINY = ["task=predict", "model=tiny", "task.in_process=true"]


class Predict:
    """predict(*overrides, stdin=…) -> the exit code, stdout and stderr."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self._monkeypatch, self._capsys = directory, monkeypatch, capsys

    def __call__(
        self, *overrides: str, stdin: bytes = b"", model: list[str] = TINY, tracking: str = "off"
    ) -> tuple[int, str, str]:
        self._capsys.readouterr()
        piped = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
        self._monkeypatch.setattr(sys, "stdin", piped)
        self._monkeypatch.setattr(sys, "argv", ["dscoder_exp", *model, f"tracking={tracking}", *overrides])
        with uninterrupted():  # whatever handlers the task sets are gone afterwards
            code = main()
        out, err = self._capsys.readouterr()
        return code, out, err

    def answered(self, *overrides: str, **options: Any) -> list[dict[str, Any]]:
        """The answers to p.jsonl, written to a new file."""
        output = f"a{len(list(self.directory.glob('a*.jsonl')))}.jsonl"
        code, _, err = self("predict.input=p.jsonl", f"predict.output={output}", *overrides, **options)
        assert code == 0, err
        return read(self.directory / output)

    def write(self, *rows: Any) -> None:
        """Write p.jsonl."""
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (self.directory / "p.jsonl").write_text("\n".join(lines))

    def files(self) -> set[str]:
        """What lies in the directory, besides what each run leaves."""
        return {file.name for file in self.directory.iterdir()} - {"multirun", "p.jsonl", "home"}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
