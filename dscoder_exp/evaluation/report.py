"""What an evaluation leaves: its summary and page beside the results, and what MLflow records."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dscoder_exp.data.source import digest
from dscoder_exp.data.text_files import read_chunks
from dscoder_exp.evaluation.loss_data import LossData
from dscoder_exp.evaluation.page import write_page
from dscoder_exp.evaluation.results import PAGE, RESULTS, SUMMARY, Evaluation
from dscoder_exp.evaluation.scores import Comparison
from dscoder_exp.schema.config import LOSS, Config
from dscoder_exp.schema.errors import Refused
from dscoder_exp.storage.file_names import ADAPTER_FILE, CHECKPOINT_FILE
from dscoder_exp.storage.json_files import read_json, write_json
from dscoder_exp.tracking.run import Run

PROTOCOL_TAG = "evaluate.protocol"
FOLDER = "evaluation"  # of the artifacts


def comparison_of(evaluation: Evaluation, config: Config) -> Comparison | None:
    """The comparison with evaluate.baseline, if there is one. Raises Refused where it has another protocol."""
    baseline = config.evaluate.baseline
    return None if baseline is None else evaluation.compared_with(Path(baseline))


def publish(run: Run, evaluation: Evaluation, config: Config) -> None:
    """Write evaluation.html and evaluation.json, and log them and the score."""
    directory, dataset = Path(config.evaluate.output), dataset_of(evaluation.suite.path)
    _write_files(evaluation, directory, comparison_of(evaluation, config))
    _log(run, evaluation, directory, FOLDER)
    path = evaluated_path(config)
    if path is None:
        run.metrics(evaluation.metrics(), 0)
    else:
        run.scores(evaluation.metrics(), 0, model_of(path), dataset)


def publish_checkpoint(run: Run, evaluation: Evaluation, directory: Path, checkpoint: Path, step: int) -> None:
    """The same of a checkpoint that this run has made."""
    _write_files(evaluation, directory)
    _log(run, evaluation, directory, f"{FOLDER}/{checkpoint_name(step)}")
    model = {"name": checkpoint_name(step), "run_id": None, "path": str(checkpoint)}
    run.scores(evaluation.metrics(), step, model, dataset_of(evaluation.suite.path))


def _write_files(evaluation: Evaluation, directory: Path, comparison: Comparison | None = None) -> None:
    write_page(directory / PAGE, evaluation, comparison)
    evaluation.write_summary(directory, comparison)


def _log(run: Run, evaluation: Evaluation, directory: Path, folder: str) -> None:
    run.tags({PROTOCOL_TAG: evaluation.protocol.hash})
    run.dataset(dataset_of(evaluation.suite.path), "evaluation")
    for name in (SUMMARY, PAGE):
        run.artifact(directory / name, folder)
    lines = (json.dumps(row, ensure_ascii=False) for row in evaluation.rows)
    run.text("".join(f"{line}\n" for line in lines), f"{folder}/{RESULTS}")


def publish_loss(run: Run, loss: float, data: LossData, config: Config) -> None:
    """Write evaluation.json, and log the loss."""
    report, directory = data.prepared.report, Path(config.evaluate.output)
    source = config.evaluate.source or config.data.source or ""
    record = {
        "suite": LOSS,
        "source": source,
        "rows": data.rows,
        "which": data.which,
        "tokens": data.tokens,
        "loss": loss,
        "prompt_format": report.prompt_format,
        "protocol_hash": report.fingerprint[:16],
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / SUMMARY, record)
    run.tags({PROTOCOL_TAG: record["protocol_hash"]})
    dataset = {"name": Path(source).name, "digest": report.fingerprint}
    path = evaluated_path(config)
    if path is None:
        run.metrics({"evaluate/loss": loss}, 0)
    else:
        run.scores({"evaluate/loss": loss}, 0, model_of(path), dataset)


def dataset_of(path: Path) -> dict[str, str]:
    """Arguments for MLflow's `entities.Dataset` of a suite's file."""
    source = json.dumps({"uri": str(path)})
    return {"name": path.name, "digest": digest(read_chunks(path)), "source_type": "local", "source": source}


def evaluated_path(config: Config) -> Path | None:
    """The adapter or the weights that are evaluated; None where completions are, or random weights."""
    if config.evaluate.completions is not None:
        return None
    path = config.adapter.path or config.model.path
    return None if path is None else Path(path)


def model_of(path: Path) -> dict[str, str | None]:
    """The model that MLflow's scores are of: a checkpoint of ours is named by its step and the run that made it."""
    lineage = _lineage(path.resolve() if path.exists() else path)
    if lineage.get("run_id") and isinstance(lineage.get("step"), int):
        return {"name": checkpoint_name(lineage["step"]), "run_id": lineage["run_id"], "path": str(path)}
    return {"name": path.name, "run_id": None, "path": str(path)}


def checkpoint_name(step: int) -> str:
    return f"step-{step:06d}"


def _lineage(directory: Path) -> Mapping[str, Any]:
    for name in (CHECKPOINT_FILE, ADAPTER_FILE):
        if (directory / name).is_file():
            try:
                found = read_json(directory / name, "model.path").get("lineage")
            except Refused:
                continue
            return found if isinstance(found, dict) else {}
    return {}
