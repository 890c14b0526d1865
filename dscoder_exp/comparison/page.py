"""The report as one HTML file that needs no network: plotly.js, the style, the script and the data are inside."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from dscoder_exp.comparison.artifacts import RUNS_WITH_ANSWERS
from dscoder_exp.comparison.report import Comparison, page_data

PAGE = files("dscoder_exp.comparison").joinpath("page")
REPORT = "compare.html"


def write_page(directory: Path, shown: Comparison, beside: Sequence[tuple[str, str]]) -> Path:
    """Write compare.html; returns its path.

    Args:
        beside: the other files in the directory: name and what it holds.
    """
    from plotly.offline import get_plotlyjs

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_text("report.html"))
    parts = {"css": _text("report.css"), "script": _text("report.js"), "plotly": get_plotlyjs()}
    data = json.dumps(page_data(shown), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    safe = data.replace("<", "\\u003c")  # a text may hold </script>
    path = directory / REPORT
    page = template.render(data=safe, files=beside, **parts, **_words(shown))
    path.write_text(page, encoding="utf-8")
    return path


def status_counts(shown: Comparison) -> str:
    """Such as `12 runs: 10 FINISHED, 2 FAILED; 1 missing`."""
    counts = Counter(run.status for run in shown.runs).most_common()
    missing = sum(one.status == "missing" for one in shown.absent)
    runs = f"{len(shown.runs):,} run{'s' if len(shown.runs) > 1 else ''}"
    listed = ", ".join(f"{count:,} {status}" for status, count in counts)
    return f"{runs}: {listed}{f'; {missing:,} missing' if missing else ''}"


def best_line(shown: Comparison) -> str:
    """The best run, by which value; empty where none can be said to be."""
    if (place := shown.best()) is None:
        return ""
    return f"{shown.labels[place]}: {shown.ranking} {shown.gathered.figures[place][shown.ranking].last:.5g}"


def _words(shown: Comparison) -> dict[str, Any]:
    groups = f", {len(shown.group_labels):,} configurations without their seeds" if shown.has_seeds else ""
    counts = Counter(one.status for one in shown.absent)
    return {
        "title": shown.title,
        "counts": f"{status_counts(shown)}{groups}",
        "best": best_line(shown),
        "meta": f"{shown.store}, read {shown.made}. Ranked by the last {shown.ranking}.",
        "absent": shown.absent,
        "absent_counts": ", ".join(f"{count:,} {status}" for status, count in counts.items()) + ": the reasons",
        "several_protocols": len(shown.protocols()) > 1,
        "answers_say": f"Of the {RUNS_WITH_ANSWERS} best runs that have any, to the same prompts; long ones are cut.",
    }


def _text(name: str) -> str:
    return PAGE.joinpath(name).read_text(encoding="utf-8")
