"""What goes between a program and its tests behaves as in one process."""

from collections.abc import Callable

import pytest

from dscoder_exp.evaluation.programs import Outcome, Verdict

CROSSING = {  # a program, and tests that it passes
    "lists changed in place": (
        """
        def grow(x):
            x.append(4)
            x[0].sort()
        """,
        """
        a = [[2, 1]]
        grow(a)
        assert a == [[1, 2], 4]
        """,
    ),
    "a dict changed in place": (
        "def clear(a, *, b):\n    a.clear()",
        """
        a = {1: 2}
        clear(a, b=1)
        assert a == {}
        """,
    ),
    "objects that the tests' set-up makes": (
        """
        class Node:
            def __init__(self, value):
                self.value, self.next = value, None
        def total(node):
            return node.value + total(node.next) if node else 0
        """,
        """
        a = Node(1)
        a.next = Node(2)
        assert total(a) == 3
        assert a.next.value == 2
        assert isinstance(a, Node)
        """,
    ),
    "namedtuples": (
        """
        from collections import namedtuple
        Pair = namedtuple("Pair", "a b")
        f = lambda pairs: sum(pair.a for pair in pairs)
        """,
        """
        p = Pair(1, 2)
        assert f([p, Pair(3, 4)]) == 4
        assert p == (1, 2) and p.b == 2 and str(p) == "Pair(a=1, b=2)"
        """,
    ),
    "an enumeration": (
        """
        import enum
        class E(enum.IntEnum):
            A = 1
        f = lambda e: e.name
        """,
        "assert f(E.A) == 'A'\nassert E.A == 1\nassert E.A.value + 1 == 2",
    ),
    "an endless generator": (
        """
        def count():
            n = 0
            while True:
                yield n
                n += 1
        """,
        "import itertools\nassert list(itertools.islice(count(), 3)) == [0, 1, 2]",
    ),
    "iterators both ways": (
        "f = lambda x: map(str, x)",
        "assert list(f([1, 2])) == ['1', '2']\nassert sorted(f(iter([3]))) == ['3']\nassert '3' in f([3])",
    ),
    "a function of the tests": (
        "def apply(f, x):\n    return [f(n) for n in x]",
        "assert apply(lambda n: n + 1, [1, 2]) == [2, 3]",
    ),
    "a function of the tests that calls the program's": (
        "def twice(n):\n    return 2 * n\ndef apply(f, n):\n    return f(n)",
        "assert apply(lambda n: twice(n), 4) == 8",
    ),
    "exceptions": (
        """
        class Bad(ValueError): pass
        def f(x):
            raise Bad("no", x)
        """,
        """
        try:
            f(1)
        except Bad as error:
            assert error.args == ("no", 1)
        else:
            assert False
        try:
            f(1)
        except ValueError:
            pass
        """,
    ),
    "an exception of a function of the tests": (
        """
        def f(g):
            try:
                return g()
            except KeyError:
                return "no key"
        """,
        "assert f(lambda: {}[1]) == 'no key'",
    ),
    "a Counter": ("import collections\nf = collections.Counter", "assert f('aab') == {'a': 2, 'b': 1}"),
    "numpy's values": (
        "import numpy\nf = lambda: (numpy.float64(1.5), numpy.int32(2), numpy.arange(3))",
        "assert f()[:2] == (1.5, 2)\nassert (f()[2] == [0, 1, 2]).all()",
    ),
    "a list that holds itself": (
        "x = []\nx.append(x)\nf = lambda: x",
        "assert len(f()) == 1\nassert f()[0][0] == f()",
    ),
    "operators of the program's classes": (
        """
        class A:
            def __eq__(self, other): return isinstance(other, A)
            def __add__(self, other): return 5
            def __len__(self): return 3
            def __str__(self): return "A!"
        """,
        "a = A()\nassert a == A() and a + a == 5 and len(a) == 3 and str(a) == 'A!' and a",
    ),
    "what needs a module": (
        """
        from dataclasses import dataclass
        import inspect, pickle
        @dataclass
        class P:
            x: "int" = 1
        copied = pickle.loads(pickle.dumps(P(2))).x
        def g(): pass
        source = inspect.getsource(g)
        """,
        "assert P().x == 1\nassert copied == 2\nassert source == 'def g(): pass\\n'",
    ),
    "an import that only the tests have": (
        "def f(x):\n    return math.sqrt(x)",
        "import math\nassert math.isclose(f(4), 2)",
    ),
}


@pytest.mark.parametrize("name", CROSSING)
def test_a_right_program_passes(run: Callable[..., Outcome], name: str) -> None:
    found = run(*CROSSING[name])
    assert found.verdict == Verdict.PASSED, found


def test_a_builtins_name_is_the_programs_only_as_the_entry_point(run: Callable[..., Outcome]) -> None:
    code, tests = "def sum(a, b):\n    return 6\n", "assert sum(10, 15) == 6"
    assert run(code, tests, "sum").verdict == Verdict.PASSED
    assert run(code, tests).verdict == Verdict.ERROR


def test_what_cannot_be_sent_to_a_program_is_said(run: Callable[..., Outcome]) -> None:
    found = run("f = lambda x: x", "class Own:\n    pass\nf(Own())")
    assert "TypeError: the tests pass a Own, which can't be sent to a program\nline 3: f(Own())" in found.message
