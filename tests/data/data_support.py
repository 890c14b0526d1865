"""Helpers for the tests of data."""

import json
import tempfile
from pathlib import Path

from dscoder_exp.data.rows import Row
from dscoder_exp.schema.config import DataConfig

BOS, EOS, PAD = 0, 1, 2
SCRATCH = Path(tempfile.gettempdir())


def write_rows(path: Path, rows: list[Row]) -> Path:
    path.write_text(json.dumps([vars(row) for row in rows], indent=1), encoding="utf-8")
    return path


def config(source: Path | str | None, **changes) -> DataConfig:
    values = {
        "source": None if source is None else str(source),
        "template": "deepseek_coder",
        "loss": "response",
        "packing": True,
        "eval_fraction": 0.1,
        "max_rows": None,
        "overlong": "drop",
        "output": None,
    }
    return DataConfig(**(values | changes))
