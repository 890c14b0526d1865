"""Programs that mean harm, as text, to be run behind wall.py alone. behind_wall.py says what their names are."""

from textwrap import dedent

SOLVED = """
def solve(x):
    return 2 * x
"""
TIMED_OUT, MEMORY, ERROR, REFUSED = "timed out", "out of memory", "error", "refused"

FAILS = {  # with the verdicts that each may have
    "fork bomb": (
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        {TIMED_OUT, REFUSED, MEMORY},
    ),
    "thread bomb": (
        """
        import threading, time
        while True:
            threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        """,
        {ERROR, REFUSED, TIMED_OUT},
    ),
    "10 GB": ("keep = bytearray(10 << 30)", {MEMORY}),
    "10 GB in pieces": (
        """
        keep = []
        while True:
            keep.append(bytearray(50 << 20))
        """,
        {MEMORY},
    ),
    "memory of many processes": (
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                keep = b"x" * (150 << 20)
                time.sleep(100)
        time.sleep(100)
        """,
        {MEMORY},
    ),
    "memory in files without a name": ("import os\nos.memfd_create('x')", {REFUSED}),
    "endless loop": ("while True:\n    pass", {TIMED_OUT}),
    "endless sleep": ("import time\ntime.sleep(1e6)", {TIMED_OUT}),
    "loop that ignores signals": (
        """
        import signal
        for n in range(1, 65):
            try:
                signal.signal(n, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
        """,
        {TIMED_OUT},
    ),
    "processes that ignore signals": (
        """
        import os, signal
        for n in (signal.SIGTERM, signal.SIGXCPU, signal.SIGALRM):
            signal.signal(n, signal.SIG_IGN)
        for _ in range(3):
            os.fork()
        while True:
            pass
        """,
        {TIMED_OUT},
    ),
    "write outside": ("open(OUTSIDE, 'w').write('x')" + SOLVED, {ERROR, REFUSED}),
    "read of the home": ("raise Exception(open(HOME_FILE).read())", {ERROR, REFUSED}),
    "read of the tests": ("raise Exception(open(SUITE).read())", {ERROR, REFUSED}),
    "environment": ("import os\nraise Exception(sorted(os.environ.items()))", {ERROR}),
    "parent's environment": ("raise Exception(open(f'/proc/{PARENT}/environ').read())", {ERROR, REFUSED}),
    "connection": (
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), timeout=5)" + SOLVED,
        {REFUSED},
    ),
    "signal to the parent": ("import os\nos.kill(PARENT, 9)" + SOLVED, {ERROR, REFUSED}),
    "signal to the group": ("import os\nos.killpg(0, 9)\nos._exit(0)", {ERROR, REFUSED}),
    "exit before the asserts": ("import os\nos._exit(0)", {ERROR}),
    "exit in the call": ("import os\nsolve = lambda x: os._exit(0)", {ERROR}),
    "sys.exit": ("import sys\nsys.exit(0)", {ERROR}),
    "sys.exit in the call": ("import sys\nsolve = lambda x: sys.exit(0)", {ERROR}),
    "patched checker": (
        """
        import builtins, sys
        builtins.AssertionError = builtins.range = builtins.exec = lambda *a: None
        for name, module in list(sys.modules.items()):
            if "evaluation" in name:
                vars(module).update(dict.fromkeys(vars(module), lambda *a, **k: ("passed", "")))
            sys.modules[name] = None
        solve = lambda x: 0
        """,
        {ERROR, "wrong"},
    ),
    "gigabytes of output": (
        """
        import os
        text = b"x" * (1 << 20)
        while True:
            os.write(1, text)
            os.write(2, text)
        """,
        {TIMED_OUT, ERROR},
    ),
    "gigabytes of file": (
        """
        import itertools
        for n in itertools.count():
            open(f"file{n}", "wb").write(b"x" * (8 << 20))
        """,
        {REFUSED},
    ),
    "gigabytes of answer": ("solve = lambda x: 'x' * (1 << 30)", {ERROR, MEMORY}),
    "too large an answer": ("solve = lambda x: 'x' * (20 << 20)", {ERROR}),
    "namespace of its own": (
        """
        import ctypes
        if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
            raise PermissionError(ctypes.get_errno(), "unshare")
        """
        + SOLVED.replace("\n", "\n        "),
        {REFUSED},
    ),
    "deep recursion": (
        """
        import sys
        sys.setrecursionlimit(10**9)
        def solve(x):
            return solve(x + 1)
        """,
        {ERROR, MEMORY, TIMED_OUT},
    ),
    "deep recursion in C": (
        """
        import sys
        sys.setrecursionlimit(10**9)
        class A:
            def __getattr__(self, name):
                return getattr(self, name)
        solve = lambda x: A().x
        """,
        {ERROR, MEMORY, TIMED_OUT},
    ),
    "crash by ctypes": ("import ctypes\nctypes.string_at(0)", {ERROR}),
}

HARMLESS = {  # they may pass: what they do besides touches nothing
    "signals to all": "import os\ntry:\n    os.kill(-1, 9)\nexcept OSError:\n    pass" + SOLVED,
    "daemon": dedent(
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.closerange(0, 64)
            while True:
                time.sleep(0.1)
        """
    )
    + SOLVED,
    "file left behind": "open('left', 'w').write('x')" + SOLVED,
}

# What the walls hold, and not the design, is tried with each kind of them
EVERYWHERE = {
    "fork bomb",
    "memory of many processes",
    "write outside",
    "read of the home",
    "read of the tests",
    "parent's environment",
    "connection",
    "signal to the parent",
    "signal to the group",
    "gigabytes of file",
    "signals to all",
    "daemon",
    "processes that ignore signals",
    "namespace of its own",
}
