"""Running task=predict in this process, through the command line's own checks."""

import json
from pathlib import Path
from typing import Any

from command_line import CommandLine

TINY = ["task=predict", "model=tiny", "task.in_process=true"]


class Predict:
    """predict(*overrides, stdin=…) -> the exit code, stdout and stderr."""

    def __init__(self, command_line: CommandLine) -> None:
        self.directory, self._command_line = command_line.directory, command_line

    def __call__(
        self, *overrides: str, stdin: bytes = b"", model: list[str] = TINY, tracking: str = "off"
    ) -> tuple[int, str, str]:
        ended = self._command_line(*model, f"tracking={tracking}", *overrides, stdin=stdin)
        return ended.code, ended.out, ended.err

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
        return {file.name for file in self.directory.iterdir()} - {"multirun", "p.jsonl"}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
