"""Stand-ins, in the process of the tests, for what lies in the process of the program."""

import builtins
import itertools
import reprlib
from collections.abc import Callable, Iterator
from typing import Any

from dscoder_exp.evaluation.jail.messages import Connection, Ended
from dscoder_exp.evaluation.jail.values import KEPT, pack, restore, unpack

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxdeque = 12
_MATERIALIZED = 1_000_000  # items of an iterator that the tests hand to a program


class Session:
    """The tests' side of the conversation with a program."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._remotes: dict[int, Remote] = {}
        self._classes: dict[int, type[BaseException]] = {}
        self._names: dict[int, str] = {}  # how the tests call an object
        self._callbacks: list[Callable[..., Any]] = []
        self._last: tuple[str, tuple[Any, ...], dict[str, Any], Any] | None = None
        self.broken: BaseException | None = None  # why the conversation is over: Ended, TooLarge or not a message

    def load(self, code: str, imports: str, names: list[str]) -> dict[str, Any]:
        """Run the program's code; returns those of the names that it defines."""
        (found,) = self._ask("load", code, imports, names)
        for name, packed in found.items():
            if type(packed) is list and packed[0] == "object":
                self._names.setdefault(packed[1], name)
        return {name: self._unpack(packed) for name, packed in found.items()}

    def operate(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Do it in the program's process, and do to the arguments what was done to their copies there."""
        packed = [self._pack(argument) for argument in arguments]
        if operation == "call":
            self._last = (self._name(arguments[0]), arguments[1:], named, ...)
        value, changed = self._ask(operation, packed, {name: self._pack(value) for name, value in named.items()})
        for place, after in changed.items():
            restore(arguments[int(place)], self._unpack(after))
        result = self._unpack(value)
        if operation == "call":
            self._last = (self._name(arguments[0]), arguments[1:], named, result)
        return result

    def last_call(self) -> str:
        """The tests' last call of the program: "f(1, 2)"; "" if nothing was called."""
        if self._last is None:
            return ""
        name, arguments, named, _ = self._last
        shown = [_shown(argument) for argument in arguments] + [
            f"{key}={_shown(value)}" for key, value in named.items()
        ]
        return f"{name}({', '.join(shown)})"

    def last_answer(self) -> str:
        """What it returned: "f(1, 2) returned 4"; "" if it returned nothing yet."""
        returned = self._last is not None and self._last[3] is not ...
        return f"{self.last_call()} returned {_shown(self._last[3])}" if self._last and returned else ""

    def last_failure(self) -> str:
        """The call that an exception of the program came from: "in f(1, 2)"; "" if it came from elsewhere."""
        return f"in {self.last_call()}" if self._last is not None and self._last[3] is ... else ""

    def _name(self, target: Any) -> str:
        return self._names.get(object.__getattribute__(target, "_number"), "the program's function")

    def _ask(self, *request: Any) -> list[Any]:
        if self.broken is not None:
            raise self.broken
        try:
            self._connection.send(request)
        except Ended as error:
            self.broken = error
            raise
        while True:
            kind, *rest = self._receive()
            if kind == "value":
                return rest
            if kind == "error":
                raise self._exception(rest[0])
            self._connection.send(["returned", *self._called_back(*rest)])

    def _receive(self) -> list[Any]:
        try:
            return self._connection.receive()
        except BaseException as error:  # what follows couldn't be told from what came before
            self.broken = error
            raise

    def _called_back(self, number: int, arguments: list[Any]) -> tuple[str, Any]:
        try:
            result = self._callbacks[number](*(self._unpack(argument) for argument in arguments))
            return "", self._pack(result)
        except Exception as error:
            return type(error).__name__, str(error)

    def _exception(self, told: dict[str, Any]) -> BaseException:
        """The program's exception, as one of this process: of the same name, and of the same class if a builtin's."""
        base = _exception_class(told["base"])
        kind = base if told["class"] is None else self._resolve(told["class"])
        try:
            error = kind(*(self._unpack(argument) for argument in told["arguments"]))
        except Exception:
            error = RuntimeError(told["text"])
        error.from_program = {key: told[key] for key in ("text", "line", "compiles", "errno")}  # type: ignore
        return error

    def _pack(self, value: Any) -> Any:
        return pack(value, self._foreign, lambda kept, packed: _object(kept) if isinstance(kept, Kept) else packed)

    def _unpack(self, packed: Any) -> Any:
        return unpack(packed, self._resolve) if type(packed) is list else packed

    def _foreign(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return _object(value)
        if isinstance(value, type) and value in self._classes.values():
            return ["object", next(number for number, kind in self._classes.items() if kind is value)]
        if isinstance(value, Iterator):
            return ["iterator", *(self._pack(item) for item in itertools.islice(value, _MATERIALIZED))]
        if callable(value):
            self._callbacks.append(value)
            return ["callback", len(self._callbacks) - 1]
        raise TypeError(f"the tests pass a {type(value).__name__}, which can't be sent to a program")

    def _resolve(self, packed: list[Any]) -> Any:
        tag, number, *rest = packed
        if tag == "exception":
            if number not in self._classes:
                self._classes[number] = type(str(rest[0]), (_exception_class(rest[1]),), {})
            return self._classes[number]
        if tag == "kept":
            return _kept(self, number, self._unpack(rest[0]))
        if tag != "object":
            raise ValueError(f"not a packed value: {tag}")
        if number not in self._remotes:
            self._remotes[number] = Remote(self, number)
        return self._remotes[number]


def _exception_class(name: str) -> type[BaseException]:
    found = getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else Exception


def _shown(value: Any) -> str:
    return "an object" if isinstance(value, Remote) else _SHORT.repr(value)


def _object(value: "Remote | Kept") -> list[Any]:
    return ["object", object.__getattribute__(value, "_number")]


class Remote:
    """An object of the program that isn't plain data: a function, a class, an instance, an iterator.

    Operations are done in the program's process. Beside another such object it behaves as there. Beside plain data it
    equals nothing and takes part in nothing: the program's own operators, which could say anything, aren't asked.
    """

    __slots__ = ("_number", "_session")

    def __init__(self, session: Session, number: int) -> None:
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        return _operate(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _operate(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        _operate(self, "delattr", name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _operate(self, "call", *arguments, **named)

    def __deepcopy__(self, memo: Any) -> Any:
        return _operate(self, "deepcopy")

    def __hash__(self) -> int:
        return _operate(self, "hash")

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, Remote) and _operate(self, "isinstance", value)


class Kept:
    """Mixed into a plain type: an instance of a subclass that the program has made of it, a namedtuple or an IntEnum.

    It is equal to what the plain value is equal to. Its attributes and its text are the program's, and the program gets
    its own object back.
    """

    def __getattr__(self, name: str) -> Any:
        return _operate(self, "getattr", name)

    def __repr__(self) -> str:
        return _operate(self, "repr")

    def __str__(self) -> str:
        return _operate(self, "str")


def _kept(session: Session, number: int, value: Any) -> Any:
    if not isinstance(value, KEPT):
        raise ValueError("not a packed value: kept")
    kept: Any = type(type(value).__name__, (Kept, type(value)), {})
    kept = kept(value)
    kept.__dict__.update(_session=session, _number=number)
    return kept


def _operate(remote: "Remote | Kept", operation: str, *arguments: Any, **named: Any) -> Any:
    return object.__getattribute__(remote, "_session").operate(operation, remote, *arguments, **named)


def _unary(operation: str) -> Callable[..., Any]:
    def method(self: Remote, *arguments: Any) -> Any:
        return _operate(self, operation, *arguments)

    return method


def _binary(operation: str) -> Callable[[Remote, Any], Any]:
    def method(self: Remote, other: Any) -> Any:
        return _operate(self, operation, other) if isinstance(other, Remote) else NotImplemented

    return method


_UNARY = "iter next reversed len bool str repr format int float complex index round abs neg pos invert copy"
_ITEMS = "getitem setitem delitem"
_BINARY = "eq ne lt le gt ge add sub mul truediv floordiv mod matmul pow and or xor"
for _name in f"{_UNARY} {_ITEMS}".split():
    setattr(Remote, f"__{_name}__", _unary(_name))
for _name in _BINARY.split():
    setattr(Remote, f"__{_name}__", _binary(_name))
