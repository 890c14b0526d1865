"""With DSCODER_NO_SKIP=1 a run in which a test was skipped fails: what .ci/run calls passed has really run.

pytest prints the reasons itself (-ra). The hook counts the whole session, also what lies outside this directory.
"""

import os

import pytest


@pytest.hookimpl(trylast=True)  # the terminal reporter's summary, a wrapper around this, then shows the line
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("DSCODER_NO_SKIP") != "1" or reporter is None:
        return
    if skipped := len(reporter.stats.get("skipped", [])):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("")
        reporter.write_line(f"DSCODER_NO_SKIP=1: {skipped} skipped, so this run has failed", red=True)
