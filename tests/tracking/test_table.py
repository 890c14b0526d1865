"""Tables are what mlflow.log_table writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from dscoder_exp.tracking.run import Run
from dscoder_exp.tracking.table import log_table

ROWS: list[dict[str, Any]] = [
    {"prompt": 'a\n"b"', "text": "é 你", "tokens": 3, "seconds": 0.25},
    {"prompt": "c", "text": "", "tokens": 1, "seconds": 2.0},
]


class Recording(Run):
    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.tagged: dict[str, str] = {}

    def text(self, text: str, path: str) -> None:
        self.texts[path] = text

    def tags(self, values: Any) -> None:
        self.tagged |= values


@pytest.mark.slow  # MLflow's import
def test_artifact_and_tag_are_mlflows_own(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("tables", f"file://{tmp_path}/artifacts")
    run_id = client.create_run(experiment).info.run_id
    client.log_table(run_id, {name: [row[name] for row in ROWS] for name in ROWS[0]}, "predictions/answers.json")
    ours = Recording()
    log_table(ours, ROWS, "predictions/answers.json")
    [written] = list(tmp_path.glob("artifacts/**/answers.json"))
    assert json.loads(ours.texts["predictions/answers.json"]) == json.loads(written.read_text())
    assert client.get_run(run_id).data.tags["mlflow.loggedArtifacts"] == ours.tagged["mlflow.loggedArtifacts"]
    read = client.load_table(experiment, "predictions/answers.json", [run_id])
    assert read["text"].tolist() == ["é 你", ""]
