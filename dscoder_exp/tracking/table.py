"""Tables as mlflow.log_table writes them: the UI shows them as tables, and mlflow.load_table reads them.

Source of the format: mlflow/tracking/client.py, MlflowClient.log_table (pandas' orient="split", and a tag).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dscoder_exp.tracking.run import Run

TABLES_TAG = "mlflow.loggedArtifacts"


def log_table(run: Run, rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """Log rows, all with the same keys, as the only table of a run.

    Args:
        rows: at least one.
        path: of the artifact; it ends in .json.
    """
    columns = list(rows[0])
    data = [[row[column] for column in columns] for row in rows]
    run.text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), path)
    run.tags({TABLES_TAG: json.dumps([{"path": path, "type": "table"}])})
