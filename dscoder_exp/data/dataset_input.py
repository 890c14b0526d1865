"""The data set of a run, in MLflow's words."""

import json
from dataclasses import asdict
from pathlib import Path

from dscoder_exp.data.batch import FIELDS
from dscoder_exp.data.report import Prepared, read_report


def dataset_input(prepared: Prepared, source: str) -> dict[str, str]:
    """What MLflow is told of the data set: the arguments of its `entities.Dataset`.

    The digest is of the source's content, so runs on the same rows show the same data set, whatever they make of it.

    Args:
        source: as the config names it.
    """
    stored = read_report(prepared.directory)
    digest = stored.made_from["source"] if stored else prepared.report.fingerprint
    tensor = {"dtype": "int32", "shape": [-1, prepared.report.seq_length]}
    features = [{"name": name, "type": "tensor", "tensor-spec": tensor} for name in FIELDS]
    figures = {name: value for name, value in asdict(prepared.report).items() if name not in ("lengths", "examples")}
    return {
        "name": Path(source).name,
        "digest": digest,  # 32 characters; MLflow takes 36
        "source_type": "local",
        "source": json.dumps({"uri": source}),
        "schema": json.dumps({"mlflow_tensorspec": {"features": json.dumps(features), "targets": None}}),
        "profile": json.dumps(figures),
    }
