"""JSON objects in files."""

import json
from pathlib import Path
from typing import Any

from dscoder_exp.schema.errors import refuse


def read_json(path: Path, key: str) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        Refused: unreadable, malformed (with the line), or not an object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise refuse(f"{path}:{error.lineno}", f"malformed JSON: {error.msg}", "mend or copy the file again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(key, f"{path}: cannot be read ({error})", "mend or copy the file again") from error
    if not isinstance(value, dict):
        raise refuse(f"{path}:1", "not a JSON object", "mend or copy the file again")
    return value


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
