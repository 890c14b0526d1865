"""task=prepare: tokenize and pack rows or texts into MindRecord files, and report on them. Needs no device."""

from pathlib import Path

from dscoder_exp.console import Screen
from dscoder_exp.data.figure import FIGURE_FILE, write_figure
from dscoder_exp.data.prepare import data_format, prepare
from dscoder_exp.data.report import REPORT_FILE, Prepared, dataset_input
from dscoder_exp.schema.config import Config
from dscoder_exp.storage.disk_space import naming_full_disk
from dscoder_exp.tasks.summary import print_beyond, print_data, print_tokens
from dscoder_exp.tracking.run import Run
from dscoder_exp.weights.resolve import TextSetup, open_text


def run(config: Config) -> None:
    """Prepare the data, or find them prepared, and print a summary."""
    screen = Screen(quiet=False)
    text = open_text(config.model, config.tokenizer)
    print_beyond(screen, text)
    with screen.stage("preparing the data"):
        prepared = prepare_data(config, text)
    with screen.stage("drawing the report"):
        draw_report(prepared)
    prompt_format = data_format(text, config.data)
    print_tokens(screen, text, prompt_format)
    print_data(screen, prepared, prompt_format)


def draw_report(prepared: Prepared) -> Path:
    """Draw the data report beside the data, unless that was done before; returns the picture's path."""
    figure = prepared.directory / FIGURE_FILE
    if not figure.exists():
        with naming_full_disk(figure, "runtime.cache_dir"):
            write_figure(prepared.report, figure)
    return figure


def log_data(run: Run, config: Config, prepared: Prepared) -> None:
    """Log the data report, its picture and the data set in MLflow, on the rank that logs."""
    if not run.records:
        return
    run.artifact(prepared.directory / REPORT_FILE)
    run.artifact(draw_report(prepared))
    run.dataset(dataset_input(prepared, config.data.source or ""))


def prepare_data(config: Config, text: TextSetup) -> Prepared:
    """Prepare the training data, or find them prepared in the cache or in `data.output`."""
    return prepare(config.data, text, seq_length=config.seq_length, cache_dir=Path(config.runtime.cache_dir))
