"""The report in a real browser, and in MLflow's own pages. Needs Debian's package chromium."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import chromium
from comparison_support import Compare, Report, Store

pytestmark = pytest.mark.proof
SHOWN = "[...document.querySelectorAll('.plot')].filter((plot) => !plot.closest('section').hidden).length"
DRAWN = f"Number(document.documentElement.dataset.drawn) === {SHOWN}"
ROWS = "[...document.querySelectorAll('#rows tr')].map((row) => Number(row.dataset.run))"


def lines(metric: str) -> str:
    """The names of the drawn lines of a metric's figure; bands have none."""
    return f"document.querySelector('[data-metric=\"{metric}\"]').data.filter((one) => one.name).map((one) => one.name)"


def choose(id: str, value: str) -> str:
    """Choose in a list."""
    changed = f"one.value = '{value}'; one.dispatchEvent(new Event('change'))"
    return f"(() => {{ const one = document.getElementById('{id}'); {changed}; }})()"


def answers(address: str) -> bool:
    """Whether a server listens."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def report(compare: Compare, store: Store, sweep: Callable[..., tuple[str, list[str]]]) -> Report:
    parent, _ = sweep({"seq_length": [128, 256, 512], "optim.lr": ["1e-5", "2e-5"], "seed": [0, 1]})
    store.run({"seq_length": 1024}, {}, parent=parent, status="FAILED", error="out of memory")
    return compare()


def test_the_page_draws_sorts_and_filters(report: Report, tmp_path: Path) -> None:
    with chromium() as browser:
        browser.open(f"file://{report.directory}/compare.html")
        browser.wait_for(DRAWN)
        assert len(browser.run(lines("eval/loss"))) == 6  # the means over the seeds
        browser.run("document.getElementById('each').click()")
        browser.wait_for(DRAWN)
        assert len(browser.run(lines("eval/loss"))) == 12
        assert browser.run(f"{ROWS}.length") == 13

        losses = {place: run["figures"].get("eval/loss", [None])[0] for place, run in enumerate(report.data["runs"])}
        measured = sorted(loss for loss in losses.values() if loss is not None)
        click = "[...document.querySelectorAll('#heads button')].find((one) => one.textContent === 'eval/loss').click()"
        browser.run(click)
        assert [losses[place] for place in browser.run(ROWS)[:12]] == measured
        browser.run(click)
        assert [losses[place] for place in browser.run(ROWS)[:12]] == measured[::-1]
        assert browser.run(ROWS)[12] == 12  # it has no value

        column = "[...document.querySelectorAll('#heads button')].findIndex((one) => one.textContent === 'seq_length')"
        field = f"document.querySelectorAll('#filters input')[{column}]"
        browser.run(f"{field}.value = '>= 256'; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        browser.wait_for(f"{ROWS}.length === 9")
        browser.wait_for(f"{lines('eval/loss')}.length === 8")
        assert "those of the table's filter (seq_length >= 256)" in browser.run("document.body.textContent")

        browser.run(choose("x", "flops"))
        browser.wait_for(DRAWN)
        end = "Math.max(...document.querySelector('[data-metric=\"eval/loss\"]').data.flatMap((one) => one.x))"
        assert browser.run(end) == 30 * 4 * 512 * 1000
        browser.run(choose("mode", "20"))
        assert "values at step 20" in browser.run("document.getElementById('table-says').textContent")
        browser.run(choose("swept-y", ""))
        browser.wait_for(DRAWN)
        assert browser.run("document.getElementById('swept-plot').data[0].type") == "bar"
        browser.pdf(tmp_path / "printed.pdf")
        assert browser.complaints == []
        assert [address for address in browser.requests if not address.startswith("file:")] == []


def test_labels_of_parallel_coordinates_are_whole(report: Report) -> None:
    with chromium() as browser:
        for dark in (False, True):
            browser.open(f"file://{report.directory}/compare.html", dark=dark)
            browser.wait_for(DRAWN)
            cut = browser.run(
                """(() => { const plot = document.getElementById('parallel'), box = plot.getBoundingClientRect();
                const places = [...plot.querySelectorAll('.axis-title')].map((one) => one.getBoundingClientRect());
                return places.length < 5 || places.some((one, index) => one.left < box.left || one.right > box.right
                  || (index && one.left < places[index - 1].right)); })()"""
            )
            assert not cut
        assert browser.complaints == []


def test_mlflows_pages_show_the_sweep_and_its_report(
    report: Report, compare: Compare, free_port: Callable[[], int]
) -> None:
    command = [sys.executable, "-m", "dscoder_exp.dashboard", "--port", str(free_port())]
    process = subprocess.Popen(
        command, cwd=compare.directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        told = dict(process.stdout.readline().split()[:2] for _ in range(3))
        with chromium() as browser:
            deadline = time.monotonic() + 120
            while not answers(told["MLflow"]):
                assert time.monotonic() < deadline
                time.sleep(0.5)
            browser.open(told["sweep"])
            browser.wait_for("document.body.textContent.includes('Created at')")
            browser.run(f"location.href = '{told['report']}'")
            browser.wait_for("document.querySelector('iframe') !== null")
            assert "compare.html" in browser.run("document.body.textContent")
            # MLflow's pages ask who the user is also where its server knows no users
            assert [told for told in browser.complaints if not told.endswith("/users/current")] == []
    finally:
        process.terminate()
        process.wait(60)
