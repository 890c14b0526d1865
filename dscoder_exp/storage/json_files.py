"""Read and write files that hold one JSON object."""

import json
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import refuse

REMEDY = "fix the file, or copy it again"


def read_json(path: Path, key: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        Refused: the file is unreadable, malformed (names the line), or not an object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise refuse(f"{path}:{error.lineno}", f"malformed JSON: {error.msg}", REMEDY) from error
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(key, f"{path}: cannot be read ({error})", REMEDY) from error
    if not isinstance(value, dict):
        raise refuse(f"{path}:1", "not a JSON object", REMEDY)
    return value


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
