"""Finding prepared data on disk: the key that names them, and the check that a directory holds just these."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.data.report import DataReport, read_report
from dscoder_exp.data.source import digest
from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.tokenizer import Fingerprint

FORMAT = 6  # of the written files; raise it when they change, and data in an older format is not reused


@dataclass(frozen=True)
class CacheKey:
    """Everything that prepared data depends on: its hash names the data, and data.json holds it as `made_from`.

    Attributes:
        source: hash of the source's content.
        form: how the source is read (Source.form).
        columns: our names of a row's keys -> the file's (data.columns).
        bad_rows: whether bad rows are refused or dropped (data.bad_rows).
        template: PromptFormat.identity: the format's name, and a hash of what it writes.
        special_tokens: what the chat template gets: "eos_token" and so on -> text.
        allow_special_tokens: whether a control token's name in a row is that token, not words.
        max_document: the most tokens of a document.
    """

    format: int
    source: str
    form: str
    columns: dict[str, str]
    bad_rows: str
    tokenizer: Fingerprint
    template: str
    special_tokens: dict[str, str]
    allow_special_tokens: bool
    loss: str
    packing: bool
    eval_fraction: float
    max_rows: int | None
    overlong: str
    seq_length: int
    max_document: int
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int

    @property
    def fingerprint(self) -> str:
        """32 hex digits: the name of the directory in the cache."""
        return digest([json.dumps(asdict(self), sort_keys=True).encode()])


def find_prepared(directory: Path, fingerprint: str) -> DataReport | None:
    """The report, if `directory` holds the data of this fingerprint and every file has its full size; else None."""
    stored = read_report(directory)
    if stored is None or stored.report.fingerprint != fingerprint:
        return None
    paths = [directory / name for name in stored.files]
    sizes = {path.name: path.stat().st_size for path in paths if path.is_file()}
    return stored.report if sizes == stored.files else None


def refuse_occupied(directory: Path, fingerprint: str, made_from: Mapping[str, Any]) -> None:
    """Raise Refused if `data.output` is neither empty nor this data: only the user may remove it."""
    remedy = "choose another directory, or remove this one"
    if not directory.is_dir():
        if directory.exists():
            raise refuse("data.output", f"is a file, not a directory: {directory}", remedy)
        return
    stored = read_report(directory)
    if stored is None:
        if any(directory.iterdir()):
            raise refuse("data.output", f"holds something other than prepared data: {directory}", remedy)
    elif stored.report.fingerprint != fingerprint:
        old = stored.made_from
        changes = [_change(name, old.get(name), now) for name, now in made_from.items() if old.get(name) != now]
        what = f"holds data prepared with other settings ({', '.join(changes)}): {directory}"
        raise refuse("data.output", what, remedy)


def _change(name: str, there: Any, now: Any) -> str:
    if name == "tokenizer" and isinstance(there, dict):
        return f"tokenizer {Fingerprint(**there)} there, {Fingerprint(**now)} now"
    if name in ("source", "tokenizer", "format"):  # a hash or a number of ours would tell the user nothing
        return f"another {name}"
    if name == "template":
        before, after = (str(identity).rpartition(" ")[0] for identity in (there, now))
        return f"another {after}" if before == after else f"template {before} there, {after} now"
    return f"{name} {json.dumps(there)} there, {json.dumps(now)} now"
