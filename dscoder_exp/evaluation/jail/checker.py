"""In the process of the tests: runs them on stand-ins for what the program defines, and gives the verdict.

The program's process was forked before this one read the tests, and only packed values come from it. So it holds
neither the tests nor a way to this process, and what it does to its own interpreter changes nothing here.
"""

import ast
import builtins
import errno
import linecache
import random
import traceback
import types
from collections.abc import Iterator
from typing import Any

from dscoder_exp.evaluation.jail.messages import Connection, Ended, TooLarge
from dscoder_exp.evaluation.jail.remote import Session
from dscoder_exp.evaluation.programs import Verdict

FILE = "<tests>"
_LONGEST = 300  # characters of a piece of a message
_NOT_PERMITTED = frozenset(
    {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENETUNREACH, errno.ENOSPC, errno.EFBIG, errno.EAGAIN, errno.EMFILE}
)
Found = tuple[Verdict, str]


def judge(connection: Connection, code: str, tests: str, entry_point: str) -> Found:
    """The verdict on a program and its message.

    Raises:
        Ended: the program's process has ended before the tests were done.
    """
    random.seed(0)
    linecache.cache[FILE] = (len(tests), None, tests.splitlines(keepends=True), FILE)
    session = Session(connection)
    try:
        tree = ast.parse(tests, FILE)
        compiled = compile(tree, FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        return Verdict.ERROR, f"the tests don't compile: {type(error).__name__}: {error}"
    own = builtins.__dict__.keys() - {entry_point}
    names = [name for name in sorted(set(_names(compiled))) if name not in own and name[:2] != "__"]
    space: dict[str, Any] = {"__name__": "tests"}
    try:
        space |= session.load(code, _imports(tree), names)
        exec(compiled, space)
        error = session.broken  # tests with a bare `except:` may have passed over it
    except BaseException as raised:  # SystemExit of a program, too
        error = session.broken or raised
    if isinstance(error, Ended):
        raise error
    return (Verdict.PASSED, "") if error is None else _judged(error, session, tree, tests)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that code looks up outside its functions, and more, such as those of attributes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _imports(tree: ast.Module) -> str:
    """The imports at the top of the tests, a line each.

    In the original harnesses a program shares its names with the tests, so one that forgot `import math` passes where
    they have it.
    """
    found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in found if getattr(node, "module", "") != "__future__")


def _judged(error: BaseException, session: Session, tree: ast.Module, tests: str) -> Found:
    told = getattr(error, "from_program", None)
    if told is not None:
        message = "\n".join(part for part in (told["text"], told["line"], session.last_failure()) if part)
        if not told["compiles"]:
            return Verdict.SYNTAX, message
        if isinstance(error, MemoryError):
            return Verdict.OUT_OF_MEMORY, message
        return (Verdict.REFUSED if told["errno"] in _NOT_PERMITTED else Verdict.ERROR), message
    if isinstance(error, TooLarge):
        return Verdict.ERROR, f"{error}\n{session.last_failure()}"
    if isinstance(error, MemoryError):
        return Verdict.OUT_OF_MEMORY, "MemoryError in the tests"
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1][:_LONGEST]
    where = _statement(error, tree, tests)
    if isinstance(error, AssertionError):
        detail = text.removeprefix("AssertionError").removeprefix(": ")
        return Verdict.WRONG, "\n".join(part for part in (where, session.last_answer(), detail) if part)
    return Verdict.ERROR, "\n".join(part for part in (text, where, session.last_answer()) if part)


def _statement(error: BaseException, tree: ast.Module, tests: str) -> str:
    """The tests' innermost statement that raised: "line 4: assert candidate(2) == 3"."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == FILE]
    if not lines:
        return ""
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    covering = [node for node in statements if node.lineno <= lines[-1] <= (node.end_lineno or node.lineno)]
    innermost = max(covering, key=lambda node: node.lineno, default=None)
    text = (innermost and ast.get_source_segment(tests, innermost)) or linecache.getline(FILE, lines[-1])
    return f"line {lines[-1]}: {' '.join(text.split())[:_LONGEST]}"
