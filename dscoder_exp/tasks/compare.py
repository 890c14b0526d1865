"""task=compare: recorded runs side by side, as an HTML report, pictures and tables. Needs no device."""

from dscoder_exp.comparison.assembly import compare_runs
from dscoder_exp.comparison.page import REPORT, best_line, status_counts, write_page
from dscoder_exp.comparison.pictures import write_pictures
from dscoder_exp.comparison.report import Comparison
from dscoder_exp.comparison.selection import Selection, read_runs, select
from dscoder_exp.comparison.tables import write_tables
from dscoder_exp.console import Screen
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.paths import report_directory
from dscoder_exp.storage.atomic_directory import new_directory
from dscoder_exp.storage.disk_space import naming_full_disk
from dscoder_exp.tasks.commands import ui_command
from dscoder_exp.tracking.reading import open_to_read

ARTIFACTS = "compare"  # folder of the report among a run's artifacts
NOTED = 5  # runs without results that are printed


def run(config: Config) -> None:
    """Read the runs, write the report, and log it to the run of the sweep that they all belong to."""
    screen = Screen(quiet=False)
    uri, target = config.tracking.uri, report_directory(config)
    client, read_only = open_to_read(uri)
    with screen.stage("reading the runs"):
        selection = select(client, config.compare)
        runs = read_runs(client, selection)
    with screen.stage("reading what they logged", len(runs)) as stage:
        shown = compare_runs(client, uri, selection, runs, stage.advance)
    sweep = _sweep_of(shown, selection)
    with naming_full_disk(target, "compare.output"), new_directory(target, "compare.output") as directory:
        with screen.stage("writing the report"):
            beside = [*write_tables(directory, shown), *write_pictures(directory, shown)]
            write_page(directory, shown, beside)
        if sweep is not None and read_only is None:
            with screen.stage("logging it to MLflow"):
                client.log_artifacts(sweep, str(directory), ARTIFACTS)
    _print_result(screen, shown)
    screen.print(f"report   {target / REPORT}")
    if read_only is not None:
        screen.remark(f"not logged to MLflow: its store can't be written ({read_only})")
    elif sweep is not None:
        screen.print(f"MLflow   artifact {ARTIFACTS}/{REPORT} of run {sweep}: {ui_command(uri)}")


def _sweep_of(shown: Comparison, selection: Selection) -> str | None:
    """The id of the only sweep that the runs belong to; None where some belong to none, or to several."""
    if selection.sweep is not None:
        return selection.sweep.id
    parents = {run.parent for run in shown.runs}
    return parents.pop() if len(parents) == 1 else None


def _print_result(screen: Screen, shown: Comparison) -> None:
    screen.print(f"compared {shown.title}: {status_counts(shown)}")
    for one in shown.absent[:NOTED]:
        screen.print(f"         {one.status} {one.label}: {one.reason}")
    if len(shown.absent) > NOTED:
        screen.print(f"         and {len(shown.absent) - NOTED} more without results")
    if best := best_line(shown):
        screen.print(f"best     {best}")
