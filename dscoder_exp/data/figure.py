"""The data report as a picture. Matplotlib, half a second to import, is imported when one is drawn and not before."""

import logging
import os
import re
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from dscoder_exp.data.report import COUNTED, DataReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_FILE = "data.png"
LINES, COLUMNS = 14, 170  # of an example; more lines are left out, longer ones wrapped
WIDTH, PANELS, LINE = 13.0, 4.6, 0.16  # inches: of the figure, of what is above the examples, of a line of these
BLUE, GREY = "#1f5fa8", "#777777"
MARK = re.compile(f"[{COUNTED}]")


def write_figure(report: DataReport, path: Path) -> None:
    """Draw how long the documents are, what became of the rows, how full the sequences are, and the examples.

    The file appears whole or not at all. Takes about 1 s, half of it matplotlib's import.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Hydra would show that it looks for fonts
    from matplotlib.figure import Figure

    layers = [[_layer(example, counted) for counted in (False, True)] for example in report.examples]
    height = PANELS + LINE * sum(len(layer) + 2 for layer, _ in layers)
    figure = Figure(figsize=(WIDTH, height), dpi=90)
    grid = figure.add_gridspec(
        1, 3, left=0.07, right=0.97, bottom=1 - (PANELS - 0.8) / height, top=1 - 0.4 / height, wspace=0.65
    )
    for column, draw in enumerate((_lengths, _fractions, _figures)):
        draw(figure.add_subplot(grid[0, column]), report)
    y = height - PANELS
    for number, (uncounted, counted) in enumerate(layers, 1):
        _line(figure, y, f"example {number} (blue: counted by the loss)", "black")
        for grey, blue in zip(uncounted, counted, strict=True):
            y -= LINE
            _line(figure, y, grey, GREY)
            _line(figure, y, blue, BLUE)
        y -= 2 * LINE
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
        figure.savefig(partial, format="png")
    partial.replace(path)


def _line(figure: "Figure", y: float, text: str, colour: str) -> None:
    """One line of an example, `y` inches above the bottom."""
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
    """An example's lines with blanks for what is counted, or for what isn't: two layers lie on each other."""
    lines, inside = [""], False
    for mark, stretch in zip(["", *MARK.findall(example)], MARK.split(example), strict=True):
        inside = mark == COUNTED[0]
        for number, line in enumerate(stretch.expandtabs(4).split("\n")):
            lines += [""] * bool(number)
            shown = "".join(character if character.isprintable() else "?" for character in line)
            lines[-1] += shown if inside == counted else " " * len(shown)
    wrapped = [line[at : at + COLUMNS] for line in lines for at in range(0, max(1, len(line)), COLUMNS)]
    left_out = " […]" if counted else ""
    return wrapped if len(wrapped) <= LINES else [*wrapped[: LINES // 2], left_out, *wrapped[-LINES // 2 :]]
