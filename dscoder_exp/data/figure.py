"""Plotting the data report. Matplotlib takes half a second to import, so only `write_figure` imports it."""

import logging
import re
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.data.report import LOSS_MARKS, DataReport
from dscoder_exp.storage.atomic_file import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_FILE = "data.png"
MAX_LINES, MAX_COLUMNS = 14, 170  # of an example; longer lines are wrapped, and more lines are left out
WIDTH, PANEL_HEIGHT, LINE_HEIGHT = 13.0, 4.6, 0.16  # inches: figure, panels above the examples, line of text
BLUE, GREY = "#1f5fa8", "#777777"
MARK = re.compile(f"[{LOSS_MARKS}]")


def write_figure(report: DataReport, path: Path) -> None:
    """Plot document lengths, the use of the sequences, row counts and examples, and save them as a PNG file.

    The file is replaced atomically. Takes about 1 s, half of it matplotlib's import.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Hydra's logging would show its search for fonts
    from matplotlib.figure import Figure

    layers = [[_layer(example, counted) for counted in (False, True)] for example in report.examples]
    height = PANEL_HEIGHT + LINE_HEIGHT * sum(len(layer) + 2 for layer, _ in layers)
    figure = Figure(figsize=(WIDTH, height), dpi=90)
    grid = figure.add_gridspec(
        1, 3, left=0.07, right=0.97, bottom=1 - (PANEL_HEIGHT - 0.8) / height, top=1 - 0.4 / height, wspace=0.65
    )
    for column, draw in enumerate((_lengths, _fractions, _figures)):
        draw(figure.add_subplot(grid[0, column]), report)
    y = height - PANEL_HEIGHT
    for number, (uncounted, counted) in enumerate(layers, 1):
        _line(figure, y, f"example {number} (blue: counted by the loss)", "black")
        for grey, blue in zip(uncounted, counted, strict=True):
            y -= LINE_HEIGHT
            _line(figure, y, grey, GREY)
            _line(figure, y, blue, BLUE)
        y -= 2 * LINE_HEIGHT
    with atomic_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # such characters are drawn as boxes
        figure.savefig(partial, format="png")


def _line(figure: "Figure", y: float, text: str, colour: str) -> None:
    """Draw one line of an example, `y` inches above the bottom."""
    if text.strip():
        place = 0.02, y / figure.get_figheight()
        figure.text(*place, text, color=colour, family="monospace", fontsize=8, parse_math=False)


def _lengths(axes: "Axes", report: DataReport) -> None:
    edges = report.lengths["edges"]
    widths = [end - start for start, end in pairwise(edges)]
    axes.bar(edges[:-1], report.lengths["documents"], widths, align="edge", color=BLUE)
    axes.set(title=f"{report.documents:,} documents", xlabel="tokens", ylabel="documents")


def _fractions(axes: "Axes", report: DataReport) -> None:
    values = {
        "text, unpacked": report.unpacked_useful_fraction,
        "text": report.useful_fraction,
        "counted, unpacked": report.unpacked_loss_fraction,
        "counted": report.loss_fraction,
    }
    bars = axes.barh(list(values), list(values.values()), color=[GREY, BLUE, GREY, BLUE])
    axes.bar_label(bars, [f"{value:.1%}" for value in values.values()], padding=3)
    axes.invert_yaxis()
    axes.set(title=f"of {report.sequences:,} sequences of {report.seq_length:,} tokens", xlim=(0, 1.2))


def _figures(axes: "Axes", report: DataReport) -> None:
    names = ("rows", "kept", "dropped", "blank", "truncated", "split", "duplicates", "skipped", "eval_rows", "longest")
    lines = [f"{name:<11}{getattr(report, name):>12,}" for name in names]
    axes.text(0, 1, "\n".join(lines), family="monospace", va="top", transform=axes.transAxes)
    axes.set_title(f"rows: {report.kind}", loc="left")
    axes.set_axis_off()


def _layer(example: str, counted: bool) -> list[str]:
    """Lines of an example with only the text that the loss counts, or only the rest; spaces replace the other.

    Drawn over each other in two colours, both layers give the whole example.
    """
    lines, inside = [""], False
    for mark, span in zip(["", *MARK.findall(example)], MARK.split(example), strict=True):
        inside = mark == LOSS_MARKS[0]
        for number, line in enumerate(span.expandtabs(4).split("\n")):
            lines += [""] * bool(number)
            shown = "".join(character if character.isprintable() else "?" for character in line)
            lines[-1] += shown if inside == counted else " " * len(shown)
    wrapped = [line[at : at + MAX_COLUMNS] for line in lines for at in range(0, max(1, len(line)), MAX_COLUMNS)]
    left_out = " […]" if counted else ""
    return wrapped if len(wrapped) <= MAX_LINES else [*wrapped[: MAX_LINES // 2], left_out, *wrapped[-MAX_LINES // 2 :]]
