"""Programs come out as they are: verdicts, what a message says, what crosses between a program and its tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dscoder_exp.evaluation import sandbox_server
from dscoder_exp.evaluation.jail.walls import Limits
from dscoder_exp.evaluation.programs import LEAST_SECONDS, Outcome, Program, Verdict, time_limit
from dscoder_exp.evaluation.sandbox import Sandbox
from dscoder_exp.schema.errors import Refused

Run = Callable[..., Outcome]


HALVE = "def halve(n):\n    return n // 2\n"


DIVIDE = "def f(n):\n    return 1 / n"
SAME = "def f(n):\n    return n"
DIVIDED = "ZeroDivisionError: division by zero\nline 2: return 1 / n\nin f(0)"
MISSING = "ModuleNotFoundError: No module named 'nonesuch'\nline 1: import nonesuch"
TEXTLESS = "class Odd(Exception):\n    def __str__(self):\n        raise self\nraise Odd"


@pytest.mark.parametrize(
    ("code", "tests", "verdict", "message"),
    [
        (HALVE, "assert halve(4) == 2", "passed", ""),
        (HALVE, "x = 1\nassert halve(\n  5) == 2.5", "wrong", "line 2: assert halve( 5) == 2.5\nhalve(5) returned 2"),
        (HALVE, "assert halve(4) == 3, 'half of 4'", "wrong", "half of 4"),
        (HALVE, "assert halve(4 == 2", "error", "the tests don't compile"),
        (DIVIDE, "assert f(0) == 1", "error", DIVIDED),
        (SAME, "assert g(0) == 1", "error", "NameError: name 'g' is not defined"),
        (SAME, "assert f(None) < 1", "error", "'<' not supported"),
        ("def f(n):\n    assert n > 0", "f(0)", "error", "AssertionError\nline 2: assert n > 0"),
        ("def f(n):\n    return f(n + 1)", "f(0)", "error", "RecursionError"),
        ("def f(n)\n    return n", "assert f(0) == 1", "syntax", "expected ':'"),
        ("def f(n):\n\treturn n\n  return n", "assert f(0) == 1", "syntax", "IndentationError"),
        ("x = '\0'", "assert f(0) == 1", "syntax", "null bytes"),
        ("(" * 300 + ")" * 300, "assert f(0) == 1", "syntax", "too many nested parentheses"),
        ("import os\nos.abort()", "assert f(0) == 1", "error", "ended by SIG"),
        ("import nonesuch", "assert f(0) == 1", "error", MISSING),
        (TEXTLESS, "", "error", "Odd: its text failed with Odd"),
        ("f = lambda: 'x' * (1 << 40)", "f()", "out of memory", "MemoryError"),
        ("f = lambda: open('/tmp/../x', 'w')", "f()", "refused", "Read-only file system: '/tmp/../x'"),
    ],
)
def test_a_verdict_and_its_message(run: Run, code: str, tests: str, verdict: str, message: str) -> None:
    found = run(code, tests)
    assert (found.verdict, message in found.message) == (verdict, True), found


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(100)", "input = open(0).read\nwhile 1: input()"]
)
def test_time_is_what_a_program_computes_or_waits(run: Run, code: str) -> None:
    found = run(code, "", seconds=0.5)
    assert found.verdict == Verdict.TIMED_OUT
    assert found.seconds >= 0.5
    assert found.message == "it took more than 0.5 s"


def test_a_program_reads_nothing_from_stdin_and_what_it_writes_is_dropped(run: Run) -> None:
    code = "import sys\ntext = sys.stdin.read()\nprint('x' * 100000)\nprint('x', file=sys.stderr)"
    assert run(code, "assert text == ''").verdict == Verdict.PASSED


def test_the_same_program_comes_out_the_same(run: Run) -> None:
    code = "import random\nf = lambda: (random.random(), list({'a', 'b', 'c', 'd'}))"
    found = {run(code, "assert f() == 0").message for _ in range(3)}
    assert len(found) == 1
    assert "returned (0." in found.pop()


def test_several_run_at_once_and_come_out_as_they_finish(sandbox: Sandbox) -> None:
    slow = Program(("slow", 0), "import time\ntime.sleep(1)\nx = 1", "assert x", "", 10.0)
    fast = [Program(("fast", number), "x = 1", "assert x") for number in range(5)]
    found = [outcome.key for outcome in sandbox.run([slow, *fast])]
    assert found[0] != ("slow", 0)
    assert sorted(found) == sorted(program.key for program in (slow, *fast))


def test_programs_are_taken_only_when_there_is_a_place_for_them(sandbox: Sandbox) -> None:
    taken, done = 0, 0

    def programs() -> Iterator[Program]:
        nonlocal taken
        for number in range(8):
            taken += 1
            yield Program(("p", number), "x = 1", "assert x")

    for _ in sandbox.run(programs()):
        assert taken <= done + 4  # two run, and two may have ended
        done += 1
    assert done == 8


def test_a_submitted_program_is_waited_for_or_not(sandbox: Sandbox) -> None:
    assert sandbox.finished(wait=True) == []
    sandbox.submit(Program(("p", 0), "import time\ntime.sleep(0.2)", ""))
    assert sandbox.finished(wait=False) == []
    assert sandbox.unfinished == 1
    assert [outcome.verdict for outcome in sandbox.finished(wait=True)] == ["passed"]


def test_a_lost_server_is_replaced_and_what_it_ran_is_run_again() -> None:
    with Sandbox(2) as sandbox:
        sandbox.submit(Program(("p", 0), "import time\ntime.sleep(0.3)", ""))
        sandbox.submit(Program(("p", 1), "import time\ntime.sleep(0.3)", ""))
        assert sandbox._server is not None
        sandbox._server._process.kill()
        found = []
        while sandbox.unfinished:
            found += sandbox.finished(wait=True)
    assert sorted((outcome.key[1], outcome.verdict) for outcome in found) == [(0, "passed"), (1, "passed")]


@pytest.mark.parametrize("walls", ["namespaces", "none"])
def test_a_program_can_import_what_is_installed(walls: str) -> None:
    code = "import xml.etree.ElementTree, sqlite3, encodings.idna, wave, numpy.linalg, yaml\nx = 1"
    with Sandbox(1, walls=[walls]) as sandbox:
        (found,) = sandbox.run([Program(("p", 0), code, "assert x", time_limit=20.0)])
    assert found.verdict == Verdict.PASSED, found


@pytest.mark.parametrize("walls", ["namespaces", "none"])
def test_a_program_has_an_empty_temporary_directory(walls: str) -> None:
    code = "import os, tempfile\nempty = not os.listdir()\nwith tempfile.TemporaryFile() as f:\n    f.write(b'x')\n"
    programs = [Program(("p", number), f"{code}open('left', 'w')", "assert empty") for number in range(3)]
    with Sandbox(1, walls=[walls]) as sandbox:
        assert [outcome.verdict for outcome in sandbox.run(programs)] == ["passed"] * 3


def test_what_is_too_large_to_be_sent_is_said() -> None:
    program = Program(("p", 0), "f = lambda x: x * (2 << 20)", "f('x')", time_limit=20.0)
    other = Program(("p", 1), "f = len", "f('x' * (2 << 20))", time_limit=20.0)
    with Sandbox(1, limits=Limits(answer=1 << 20)) as sandbox:
        returned, given = sandbox.run([program, other])
    assert returned.message == "TooLarge: a value of 2 MiB is more than the 1 that may be sent\nin f('x')"
    assert given.message.startswith("a value of 2 MiB is more than the 1 that may be sent\nin f('xxx")


def test_a_program_may_start_processes(run: Run) -> None:
    code = """
        import asyncio, concurrent.futures, subprocess
        asyncio.run(asyncio.sleep(0))
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            total = sum(pool.map(abs, range(-3, 3)))
        said = subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout
        """
    assert run(code, "assert total == 9\nassert said == 'hello\\n'").verdict == Verdict.PASSED


READ_ONLY = """
import os, sys, tempfile
from dscoder_exp.evaluation.jail import linux
from dscoder_exp.evaluation.jail.walls import Limits, Walls
from dscoder_exp.evaluation.sandbox_server import readable_paths
linux._MOUNT_SETATTR = 1 << 20  # a kernel without it
Walls(True, Limits(), tuple(readable_paths()), tempfile.mkdtemp()).build()
for path in ("/", "/usr", os.path.dirname(os.__file__)):
    try:
        open(f"{path}/written", "w")
    except OSError as error:
        print(error.strerror)
"""


def test_the_root_is_read_only_on_older_kernels_too() -> None:
    ended = subprocess.run([sys.executable, "-c", READ_ONLY], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "Read-only file system\n" * 3, ended


HELD = """
import sys, time
from dscoder_exp.evaluation.programs import Program
from dscoder_exp.evaluation.sandbox import Sandbox
daemon = "import os, time\\nif os.fork() == 0:\\n    os.setsid()\\n    time.sleep(1000)\\ntime.sleep(1000)"
sandbox = Sandbox(2, walls=[sys.argv[1]])
for number in range(2):
    sandbox.submit(Program(("p", number), daemon, "", time_limit=1000.0))
time.sleep(0.5)
print(sandbox._server._process.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("walls", ["namespaces", "none"])
def test_nothing_outlives_a_command_that_was_killed(tmp_path: Path, walls: str) -> None:
    command, environment = [sys.executable, "-c", HELD, walls], os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        server = psutil.Process(int(process.stdout.readline()))
        started = [server, *server.children(recursive=True)]
        assert len(started) == 9  # two watchers, two tests' processes, two programs and their daemons
        process.kill()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert list(tmp_path.iterdir()) == []


def test_strict_refuses_where_there_are_no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        Refused, match=r"evaluate.sandbox: strict, but no namespaces here .*not tried.*network"
    ) as refused:
        Sandbox(1, strict=True, walls=["none"])
    assert "-> evaluate.sandbox=auto" in str(refused.value)


def test_a_sandbox_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_server, "_START", "raise SystemExit('no fork server today')")
    with pytest.raises(RuntimeError, match="can't be started: namespaces: no fork server today"):
        Sandbox(1, walls=["namespaces"])


def test_a_limit_follows_the_reference_solution() -> None:
    assert time_limit(0.01) == LEAST_SECONDS
    assert time_limit(2.0) == 20.0
