"""evaluation.html shows what is in the results, escaped, and needs no network."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from evaluation_support import HUMANEVAL, write_rows

from dscoder_exp.evaluation.page import write_page
from dscoder_exp.evaluation.protocol import Protocol
from dscoder_exp.evaluation.results import Evaluation
from dscoder_exp.evaluation.scores import Comparison
from dscoder_exp.evaluation.suites import read_suite

PROTOCOL = Protocol("humaneval", "a", "instruct", "b", 1, {}, {})
HOSTILE = "</script><script>alert(1)</script>"


def evaluation_of(directory: Path, rows: list[dict[str, Any]], **more: Any) -> Evaluation:
    suite = read_suite("humaneval", write_rows(directory / "h.jsonl", HUMANEVAL))
    return Evaluation(suite, rows, PROTOCOL, "nothing isolated", **more)


class Elements(HTMLParser):
    """Counts the elements of a page, and collects its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {name for name, _ in attrs} & {"src", "href"}
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page(tmp_path: Path) -> None:
    kept = {"seconds": 0.1, "form": "instruct"}
    rows = [
        {"task_id": "Own/0", "completion": "a", "passed": True, "verdict": "passed", "message": "", "code": "x = 1\n"},
        {"task_id": "Own/1", "completion": HOSTILE, "passed": False, "verdict": "wrong", "message": "assert 1 == 2"},
        {"task_id": "Own/2", "completion": "\ud800", "passed": False, "verdict": "nothing extracted", "message": ""},
    ]
    failing, comparison = {"Own/2": "error: no such module"}, Comparison(3, 1, 0, 1.0)
    write_page(
        tmp_path / "p.html", evaluation_of(tmp_path, [{**row, **kept} for row in rows], failing=failing), comparison
    )
    page = (tmp_path / "p.html").read_text()
    found = Elements(page)
    assert found.counts["details"] == 3
    assert found.counts["script"] == 1
    assert found.counts["button"] == 4, "all, and one for each verdict"
    for text in ("33.3% of 3 problems", HOSTILE, "assert 1 == 2", "error: no such module", PROTOCOL.hash, "x = 1"):
        assert text in found.text
    assert [file.name for file in tmp_path.iterdir() if "unfinished" in file.name] == []
