"""The rows that evaluate.suite=loss measures: of a file all, of the training data those held out, or prepared data."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dscoder_exp.data.loader import SequenceDataset, load
from dscoder_exp.data.prepare import prepare
from dscoder_exp.data.report import REPORT_FILE, Prepared, read_report
from dscoder_exp.schema.config import Config, DataConfig
from dscoder_exp.schema.errors import refuse
from dscoder_exp.weights.tokenizer import Fingerprint, fingerprint

if TYPE_CHECKING:
    from dscoder_exp.weights.resolve import TextSetup

KEY = "evaluate.source"


class LossData(NamedTuple):
    """
    Attributes:
        tokens: those that the loss counts.
        rows: number of rows, and which they are.
    """

    prepared: Prepared
    sequences: SequenceDataset
    tokens: int
    rows: int
    which: str


def measured_data(config: Config) -> DataConfig:
    """The settings to prepare the rows with: evaluate.source holds out none, since all of it is measured."""
    source = config.evaluate.source
    return config.data if source is None else replace(config.data, source=source, eval_fraction=0.0, output=None)


def is_prepared(source: str | None) -> bool:
    return source is not None and (Path(source) / REPORT_FILE).is_file()


def loss_data(config: Config, text: "TextSetup") -> LossData:
    """Prepare the rows, or find them prepared.

    Raises:
        Refused: as `prepare` does; no rows are held out; prepared data is of another tokenizer, or damaged.
    """
    if is_prepared(config.evaluate.source):
        prepared = _found(Path(config.evaluate.source or ""), text)
    else:
        cache = Path(config.runtime.cache_dir)
        prepared = prepare(measured_data(config), text, seq_length=config.seq_length, cache_dir=cache)
    report = prepared.report
    if report.eval_sequences:
        return LossData(prepared, load(prepared, "eval"), report.eval_loss_tokens, report.eval_rows, "held out")
    if config.evaluate.source is None:
        what = f"no rows of {config.data.source} are held out (data.eval_fraction={config.data.eval_fraction:g})"
        raise refuse(KEY, what, f"{KEY}=FILE, of which all rows are measured")
    return LossData(prepared, load(prepared, "train"), report.loss_tokens, report.train_rows, "all")


def _found(directory: Path, text: "TextSetup") -> Prepared:
    stored = read_report(directory)
    if stored is None:
        raise refuse(str(directory / REPORT_FILE), "is no report on prepared data", "prepare the data again")
    sizes = {name: path.stat().st_size for name in stored.files if (path := directory / name).is_file()}
    if sizes != stored.files:
        raise refuse(KEY, f"prepared data with a file missing, or cut short: {directory}", "prepare the data again")
    there, own = Fingerprint(**stored.made_from["tokenizer"]), fingerprint(text.tokenizer)
    if there != own:
        raise refuse(KEY, f"{directory} was prepared with tokenizer {there}, the model's is {own}", f"{KEY}=FILE")
    return Prepared(directory, stored.report, reused=True)
