"""In the process of a program: runs it, then calls its functions as the process of the tests asks.

Nothing here is relied on. The tests and the verdict are elsewhere; what this process says is taken for the program's
answers, whoever in it says so.
"""

import builtins
import copy
import linecache
import operator
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from dscoder_exp.evaluation.jail.messages import Connection, TooLarge
from dscoder_exp.evaluation.jail.values import KEPT, MUTABLE, pack, unpack

FILE = "<program>"
OPERATIONS: dict[str, Callable[..., Any]] = {
    "iter": iter,
    "next": next,
    "reversed": reversed,
    "len": len,
    "bool": bool,
    "hash": hash,
    "str": str,
    "repr": repr,
    "format": format,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "round": round,
    "abs": abs,
    "neg": operator.neg,
    "pos": operator.pos,
    "invert": operator.invert,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "isinstance": lambda kind, value: isinstance(value, kind),
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "matmul", "pow")},
    **{name: getattr(operator, f"{name}_") for name in ("and", "or")},
    "xor": operator.xor,
    "call": lambda function, *arguments, **named: function(*arguments, **named),
}


class Program:
    """The program's side of the conversation with its tests."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._module = types.ModuleType("program")
        self._objects: list[Any] = []  # what the tests hold, by number
        self._numbers: dict[int, int] = {}  # id of an object -> its number

    def serve(self) -> None:
        """Answer what the tests ask, to the end of this process."""
        while True:
            self._answer(self._connection.receive())

    def _answer(self, request: list[Any]) -> None:
        what, *rest = request
        try:
            answer = ["value", *(self._load(*rest) if what == "load" else self._operate(what, *rest))]
        except BaseException as error:  # SystemExit, too, is for the tests to hear of
            answer = ["error", self._described(error)]
        try:
            self._connection.send(answer)
        except (TooLarge, RecursionError) as error:
            self._connection.send(["error", self._described(error)])

    def _load(self, code: str, imports: str, names: list[str]) -> list[Any]:
        """Run the program; returns which of the names it has, packed."""
        sys.modules["program"] = self._module
        sys.argv = [""]
        random.seed(0)
        linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
        try:
            compiled = compile(code, FILE, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
            raise _DoesNotCompile from error
        space = self._module.__dict__
        exec(compiled, space)
        for statement in imports.splitlines():
            try:
                exec(statement, space)
            except Exception:
                continue  # the tests' own process will say so
        return [{name: self._pack(space[name]) for name in names if name in space}]

    def _operate(self, operation: str, arguments: list[Any], named: dict[str, Any]) -> list[Any]:
        """The result, and what became of those arguments that were changed, by place."""
        values = [self._unpack(argument) for argument in arguments]
        result = OPERATIONS[operation](*values, **{name: self._unpack(value) for name, value in named.items()})
        packed, changed = self._pack(result), {}
        for place, (argument, value) in enumerate(zip(arguments, values, strict=True)):
            if _changeable(argument) and (after := self._pack(value)) != argument:
                changed[place] = after
        return [packed, changed]

    def _pack(self, value: Any) -> Any:
        try:
            return pack(value, self._foreign, self._kept)
        except RecursionError:  # it holds itself
            return self._foreign(value)

    def _unpack(self, packed: Any) -> Any:
        return unpack(packed, self._resolve) if type(packed) is list else packed

    def _kept(self, value: Any, packed: Any) -> Any:
        return ["kept", self._number(value), packed] if isinstance(value, KEPT) else packed

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return number

    def _foreign(self, value: Any) -> list[Any]:
        number = self._number(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", number, value.__name__, _builtin_base(value)]
        return ["object", number]

    def _resolve(self, packed: list[Any]) -> Any:
        tag, *items = packed
        if tag == "iterator":
            return iter([self._unpack(item) for item in items])
        if tag == "callback":
            return lambda *arguments: self._call_back(items[0], arguments)
        return self._objects[items[0]]

    def _call_back(self, number: int, arguments: tuple[Any, ...]) -> Any:
        """Call a function of the tests, which may in turn ask things before it answers."""
        self._connection.send(["callback", number, [self._pack(argument) for argument in arguments]])
        while (message := self._connection.receive())[0] != "returned":
            self._answer(message)
        _, error, value = message
        if error:
            raise getattr(builtins, error, Exception)(value)
        return self._unpack(value)

    def _described(self, error: BaseException) -> dict[str, Any]:
        """What the tests' process makes its own exception of, and what a report says."""
        compiles = not isinstance(error, _DoesNotCompile)
        error = error if compiles else (error.__cause__ or error)
        kind = type(error)
        try:
            arguments, text = [self._pack(argument) for argument in error.args], str(error)
        except BaseException as second:
            arguments, text = [], f"its text failed with {type(second).__name__}"
        return {
            "class": self._foreign(kind) if getattr(builtins, kind.__name__, None) is not kind else None,
            "base": _builtin_base(kind),
            "arguments": arguments,
            "text": f"{kind.__name__}: {text}"[:1000].removesuffix(": "),
            "line": _place_of(error),
            "compiles": compiles,
            "errno": error.errno if isinstance(error, OSError) else None,
        }


class _DoesNotCompile(Exception):
    """Raised from the compiler's exception."""


def _changeable(packed: Any) -> bool:
    """Whether a packed value is, or holds, something that the program could have changed."""
    if type(packed) is not list:
        return False
    return packed[0] in MUTABLE or any(_changeable(item) for item in packed[1:])


def _builtin_base(kind: type[BaseException]) -> str:
    return next(base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)


def _place_of(error: BaseException) -> str:
    """The program's last line before the error: "line 3: return 1 / n"; "" if it wasn't in the program's text."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE else line
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == FILE:
        line = error.lineno or line
    return f"line {line}: {linecache.getline(FILE, line).strip()[:200]}" if line else ""
