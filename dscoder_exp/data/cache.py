"""The directory of prepared data: named by all that the data depend on, found whole, or left alone when it is someone
else's.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dscoder_exp.data.report import DataReport, read_report
from dscoder_exp.data.source import digest
from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.tokenizer import Fingerprint

FORMAT = 4  # raise it when what is written changes: older caches are then left alone


@dataclass(frozen=True)
class CacheKey:
    """All that prepared data depends on, so that its hash names the data. Long things stand in by hashes.

    Attributes:
        source: of its content.
        form: how the content is read (Source.form).
        around: the ids that the tokenizer itself puts around a text.
        template: its name, and a hash of what it writes.
    """

    format: int
    source: str
    form: str
    tokenizer: Fingerprint
    around: list[int]
    template: str
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
        return digest([json.dumps(asdict(self), sort_keys=True).encode()])


def find(directory: Path, fingerprint: str) -> DataReport | None:
    """The report of a directory that holds just this data, every file whole; else None."""
    stored = read_report(directory)
    if stored is None or stored.report.fingerprint != fingerprint:
        return None
    paths = [directory / name for name in stored.files]
    sizes = {path.name: path.stat().st_size for path in paths if path.is_file()}
    return stored.report if sizes == stored.files else None


def refuse_foreign(directory: Path, fingerprint: str, made_from: Mapping[str, Any]) -> None:
    """Raise Refused for a `data.output` that holds anything but this data: that is the user's to remove."""
    remedy = "give another directory, or remove this one"
    if not directory.is_dir():
        if directory.exists():
            raise refuse("data.output", f"is a file, not a directory: {directory}", remedy)
        return
    stored = read_report(directory)
    if stored is None:
        if any(directory.iterdir()):
            raise refuse("data.output", f"holds something else than prepared data: {directory}", remedy)
    elif stored.report.fingerprint != fingerprint:
        old = stored.made_from
        changes = [_change(name, old.get(name), now) for name, now in made_from.items() if old.get(name) != now]
        raise refuse("data.output", f"holds data prepared otherwise ({', '.join(changes)}): {directory}", remedy)


def _change(name: str, there: Any, now: Any) -> str:
    if name == "tokenizer" and isinstance(there, dict):
        return f"tokenizer {Fingerprint(**there)} there, {Fingerprint(**now)} now"
    if name in ("source", "tokenizer", "format"):  # hashes say nothing to a reader
        return f"another {name}"
    if name == "template":
        before, after = (str(identity).rpartition(" ")[0] for identity in (there, now))
        return f"another {after}" if before == after else f"template {before} there, {after} now"
    return f"{name} {json.dumps(there)} there, {json.dumps(now)} now"
