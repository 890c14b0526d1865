"""The report on prepared data: its figures, data.json, and what MLflow records of the data set."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from dscoder_exp.data.batch import FIELDS

REPORT_FILE = "data.json"
LOSS_MARKS = "⟦⟧"  # enclose the parts of an example that the loss counts


class Histogram(TypedDict):
    """Document lengths: bin i counts the documents of edges[i] to edges[i + 1] - 1 tokens; the last, edges[-1] too."""

    edges: list[int]
    documents: list[int]


@dataclass(frozen=True)
class DataReport:
    """The figures of a prepared data set, as data.json holds them.

    rows = kept + dropped; kept = train_rows + eval_rows, except that a text that is the only row may count in both.
    """

    kind: str  # of the rows: alpaca, prompt and response, chat, text
    rows: int  # read from the source, at most data.max_rows
    kept: int  # rows that became a document, or several
    dropped: int  # rows left out: blank, bad, or above the limit
    blank: int  # rows without a request or an answer, or without text
    truncated: int  # rows cut to the limit, and kept
    split: int  # texts above the limit, split into several documents
    duplicates: int  # rows equal to an earlier one; kept, in the same split
    skipped: int  # files of the source that aren't text, or broken links
    bad_rows: dict[str, int]  # dropped rows that are no rows, or that the prompt format doesn't take: reason -> rows
    bad_examples: list[str]  # the first three of them: file, line, number and what is wrong
    ignored: dict[str, int]  # keys, or other things in rows, that nothing is made of -> rows that hold them
    prompt_format: str  # its name
    prompt_format_origin: str  # the file or key that it comes from
    special_texts: int  # rows that hold the name of a special token, such as <|im_end|>, as text
    train_rows: int
    eval_rows: int
    documents: int  # made of the kept rows
    longest: int  # tokens of the longest document
    most_documents: int  # in one sequence, of either split
    seq_length: int
    pad_token_id: int
    sequences: int  # of the training split, as are the next six
    tokens: int  # not padding
    loss_tokens: int  # counted by the loss
    useful_fraction: float  # tokens / all positions of the sequences
    loss_fraction: float  # loss_tokens / all positions of the sequences
    unpacked_useful_fraction: float  # the same two, if each document had a sequence of its own
    unpacked_loss_fraction: float
    eval_sequences: int
    eval_tokens: int
    eval_loss_tokens: int
    fingerprint: str  # hash of everything that the files depend on
    lengths: Histogram  # of the documents, in tokens
    examples: list[str]  # five documents as text; LOSS_MARKS enclose what the loss counts


@dataclass(frozen=True)
class Prepared:
    """Prepared data on disk; `reused`: found there, not made by this process."""

    directory: Path
    report: DataReport
    reused: bool


@dataclass(frozen=True)
class StoredReport:
    """The content of data.json: the report, the CacheKey that it was made from, and each file's size in bytes."""

    report: DataReport
    made_from: dict[str, Any]
    files: dict[str, int]


def write_report(directory: Path, report: DataReport, made_from: Mapping[str, Any]) -> None:
    """Write data.json beside the finished files, with their sizes, so that a missing or cut file is noticed later."""
    sizes = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    content = {**asdict(report), "made_from": dict(made_from), "files": sizes}
    (directory / REPORT_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_report(directory: Path) -> StoredReport | None:
    """Read a directory's data.json; None if there is none, or if it isn't a report."""
    try:
        content = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))
        report = DataReport(**{field.name: content[field.name] for field in fields(DataReport)})
        return StoredReport(report, dict(content["made_from"]), dict(content["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def dataset_input(prepared: Prepared, source: str) -> dict[str, str]:
    """Arguments for MLflow's `entities.Dataset`.

    The digest is of the source's content, so runs on the same rows show the same data set, whatever their options.

    Args:
        source: `data.source`, as in the config.
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
