"""What a preparation comes to: data.json, and the directory it lies in."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from dscoder_exp.data.batch import FIELDS

REPORT_FILE = "data.json"
COUNTED = "⟦⟧"  # around the part of an example that the loss counts


class Histogram(TypedDict):
    """Bin i holds the documents of edges[i] to edges[i + 1] - 1 tokens, the last bin those of its end too."""

    edges: list[int]
    documents: list[int]


@dataclass(frozen=True)
class DataReport:
    """The figures of a prepared data set, as data.json holds them.

    rows = kept + dropped; kept = train_rows + eval_rows, but for a text that is the only row: both have parts of it.
    """

    kind: str  # of the rows: alpaca, prompt and response, chat, text
    rows: int  # read from the source, at most data.max_rows
    kept: int  # became a document, or several
    dropped: int  # blank ones, and those above the limit
    blank: int  # no request or no answer, no text
    truncated: int  # cut to the limit, and kept
    split: int  # texts above the limit, cut into several documents
    duplicates: int  # rows equal to an earlier one; kept, and always in the same split as that one
    skipped: int  # files of the source that are no text
    train_rows: int
    eval_rows: int
    documents: int  # made of the kept rows
    longest: int  # tokens of the longest document
    most_documents: int  # of a sequence, whichever its split
    seq_length: int
    pad_token_id: int
    sequences: int  # of the training split; so are the next six
    tokens: int  # not padding
    loss_tokens: int  # counted by the loss
    useful_fraction: float  # tokens / all positions of the sequences
    loss_fraction: float  # loss_tokens / the same
    unpacked_useful_fraction: float  # what they would be if each document had a sequence of its own
    unpacked_loss_fraction: float
    eval_sequences: int
    eval_tokens: int
    eval_loss_tokens: int
    fingerprint: str  # of everything that the files depend on
    lengths: Histogram  # of the documents, in tokens
    examples: list[str]  # five documents, what the loss counts between COUNTED


@dataclass(frozen=True)
class Prepared:
    """Prepared data on disk; `reused`: it was there already."""

    directory: Path
    report: DataReport
    reused: bool


@dataclass(frozen=True)
class StoredReport:
    """What data.json holds: the figures, the options behind them, and each file's size in bytes."""

    report: DataReport
    made_from: dict[str, Any]
    files: dict[str, int]


def write_report(directory: Path, report: DataReport, made_from: Mapping[str, Any]) -> None:
    """Write data.json beside the finished files, whose sizes it notes, so that a missing part shows later."""
    sizes = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    content = {**asdict(report), "made_from": dict(made_from), "files": sizes}
    (directory / REPORT_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_report(directory: Path) -> StoredReport | None:
    """What a directory's data.json holds; None when there is none, or it isn't ours."""
    try:
        content = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))
        report = DataReport(**{field.name: content[field.name] for field in fields(DataReport)})
        return StoredReport(report, dict(content["made_from"]), dict(content["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
