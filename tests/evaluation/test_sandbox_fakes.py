"""Programs that don't solve the problem, and try to pass all the same."""

from collections.abc import Callable

import pytest

from dscoder_exp.evaluation.programs import Outcome, Verdict

TESTS = """
def check(candidate):
    for x in range(5):
        assert abs(candidate(x) - 2 * x) < 1e-6
        assert candidate(x) == 2 * x
check(solve)
"""
EQUALS_ALL = """
class Equal:
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = __contains__ = __bool__ = lambda self, *other: True
    __ne__ = lambda self, other: False
    __sub__ = __rsub__ = __add__ = __radd__ = __abs__ = lambda self, *other: 0
    __hash__ = None
"""

FAKES = {
    "exit": "import os\nos._exit(0)",
    "exit in the call": "import os\nsolve = lambda x: os._exit(0)",
    "sys.exit": "raise SystemExit(0)",
    "sys.exit in the call": "import sys\nsolve = lambda x: sys.exit(0)",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\nsolve = lambda x: None",
    # Answers that pass any comparison in one process
    "an object that equals all": EQUALS_ALL + "solve = lambda x: Equal()",
    "a number that equals all": EQUALS_ALL + "class Number(Equal, float): pass\nsolve = lambda x: Number(1)",
    "a list that equals all": EQUALS_ALL + "class Items(Equal, list): pass\nsolve = lambda x: Items()",
    "a mock that equals all": "from unittest.mock import ANY\nsolve = lambda x: ANY",
    "a mock": "from unittest.mock import MagicMock\nsolve = MagicMock()",
    # What changes a checker in the same process
    "builtins changed": """
        import builtins
        builtins.abs = lambda x: 0
        builtins.range = lambda n: []
        builtins.AssertionError = ZeroDivisionError
        solve = lambda x: 0
        """,
    "exec and compile replaced": """
        import builtins
        builtins.exec = builtins.compile = lambda *a, **k: None
        solve = lambda x: 0
        """,
    "names that the tests use": """
        def abs(x): return 0
        def range(n): return []
        def check(candidate): pass
        solve = lambda x: 0
        """,
    "modules removed": """
        import sys
        for name in list(sys.modules):
            sys.modules[name] = None
        solve = lambda x: 0
        """,
    "modules changed": """
        import sys
        for name, module in list(sys.modules.items()):
            if "evaluation" in name:
                vars(module).update(dict.fromkeys(vars(module), lambda *a, **k: ("passed", "")))
        solve = lambda x: 0
        """,
    "tracing": """
        import sys
        sys.settrace(lambda *a: None)
        sys.setprofile(lambda *a: None)
        solve = lambda x: 0
        """,
    "frames": """
        import sys
        frame = sys._getframe()
        while frame:
            frame.f_globals.update(judge=lambda *a: ("passed", ""), check=lambda candidate: None)
            frame = frame.f_back
        solve = lambda x: 0
        """,
    # The verdict's words on every descriptor; answers before the questions; what is no message
    "a verdict written": """
        import os
        for fd in range(1, 64):
            try:
                os.write(fd, b'{"verdict": "passed", "message": "", "seconds": 0.0}')
            except OSError:
                pass
        solve = lambda x: 0
        """,
    "answers in advance": """
        import json, os, struct
        data = json.dumps(["value", None, {}]).encode()
        for _ in range(100):
            os.write(3, struct.pack("!I", len(data)) + data)
        solve = lambda x: 0
        """,
    "a message without an end": "import os, struct\nos.write(3, struct.pack('!I', 1 << 31))\nsolve = lambda x: 0",
    "a message that is none": "import os\nos.write(3, b'\\0\\0\\0\\4nope')\nsolve = lambda x: 0",
    "a message nested too deeply": """
        import os, struct
        data = b"[" * 100000
        os.write(3, struct.pack("!I", len(data)) + data)
        solve = lambda x: 0
        """,
    "the connection closed": "import os\nos.close(3)\nsolve = lambda x: 0",
    # The tests' text, wherever it might be
    "the tests in memory": """
        import gc
        text = repr([found for found in gc.get_objects() if isinstance(found, (str, dict, list, tuple))])
        solve = lambda x: 2 * x if "== )x(etadidnac"[::-1] in text else 0
        """,
    "the tests in the cache of lines": """
        import linecache
        solve = lambda x: 2 * x if linecache.getlines("<tests>") else 0
        """,
    "the tests in a file": """
        import glob, os
        found = [path for path in glob.glob("/tmp/**", recursive=True) + glob.glob("/proc/*") if os.path.isfile(path)]
        solve = lambda x: 2 * x if found else 0
        """,
}


@pytest.mark.parametrize("name", FAKES)
def test_no_pass_is_faked(run: Callable[..., Outcome], name: str) -> None:
    found = run(FAKES[name], TESTS, "solve")
    assert found.verdict in (Verdict.WRONG, Verdict.ERROR), found


@pytest.mark.parametrize("code", ["import os\nsolve = lambda x: os._exit(0)", FAKES["a message without an end"]])
def test_tests_that_pass_over_errors_pass_over_no_broken_conversation(run: Callable[..., Outcome], code: str) -> None:
    tests = """
        for _ in range(3):
            try:
                solve(1)
            except:
                pass
        """
    assert run(code, tests).verdict == Verdict.ERROR


def test_a_right_program_passes_the_same_tests(run: Callable[..., Outcome]) -> None:
    assert run("solve = lambda x: 2.0 * x", TESTS, "solve").verdict == Verdict.PASSED
