"""Plain values as JSON, between the process of a program and the process of its tests.

What comes from a program is read by `unpack` alone, which makes nothing but the kinds listed here: it calls no code
that the sender names, unlike pickle or marshal.
"""

import builtins
import collections
import datetime
import sys
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

SCALARS = frozenset({type(None), bool, float, str})
WORD = 1 << 62  # larger integers travel in hexadecimal, which has no limit of digits
Foreign = Callable[[Any], list[Any]]  # what pack makes of an object that isn't plain
Keep = Callable[
    [Any, Any], Any
]  # what it makes of an instance of a subclass of a plain type, given that packed as plain
Resolve = Callable[[list[Any]], Any]  # the reverse

_CONTAINERS: dict[str, tuple[type, Callable[[Any], Iterable[Any]]]] = {
    "list": (list, list.__iter__),
    "tuple": (tuple, tuple.__iter__),
    "set": (set, set.__iter__),
    "frozenset": (frozenset, frozenset.__iter__),
    "deque": (collections.deque, collections.deque.__iter__),
    "counter": (collections.Counter, dict.items),
    "ordered": (collections.OrderedDict, collections.OrderedDict.items),
    "dict": (dict, dict.items),
    "keys": (type({}.keys()), iter),
    "values": (type({}.values()), iter),
    "items": (type({}.items()), iter),
}
_TEXTS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
    "decimal": (Decimal, Decimal.__str__, Decimal),
    "fraction": (Fraction, Fraction.__str__, Fraction),
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
}
_BY_TYPE = {kind: tag for tag, (kind, *_) in [*_CONTAINERS.items(), *_TEXTS.items()]}
KEPT = (
    int,
    float,
    complex,
    str,
    bytes,
    tuple,
    frozenset,
)  # instances of their subclasses can be handed back as they were
_NUMBERS = (int, float, complex, str)
MUTABLE = frozenset({"list", "set", "dict", "deque", "counter", "ordered", "bytearray"})


def pack(value: Any, foreign: Foreign, keep: Keep) -> Any:
    """A value as JSON: scalars as they are, all else as [kind, …]. numpy's scalars count as Python's.

    Raises:
        RecursionError: it is nested too deeply, or in itself.
    """
    kind = type(value)
    if kind in SCALARS or (kind is int and -WORD < value < WORD):
        return value
    if kind is list and all(type(item) in SCALARS for item in value):
        return ["list", *value]
    tag = _BY_TYPE.get(kind) or _tag_of_base(value)
    if tag in _CONTAINERS:
        packed = [tag, *(pack(item, foreign, keep) for item in _CONTAINERS[tag][1](value))]
    elif tag in _TEXTS:
        packed = [tag, _TEXTS[tag][1](value)]
    else:
        return _pack_other(value, tag, foreign, keep)
    return packed if kind in _BY_TYPE else keep(value, packed)


def _tag_of_base(value: Any) -> str:
    """The plain type that a value's class comes from; "" if none."""
    for base in _NUMBERS:
        if isinstance(value, base):
            return base.__name__
    return next((tag for base, tag in _BY_TYPE.items() if isinstance(value, base)), "")


def _pack_number(value: Any, tag: str, keep: Keep) -> Any:
    if tag == "int":
        number = int.__int__(value)
        packed = number if -WORD < number < WORD else ["int", hex(number)]
    elif tag == "complex":
        packed = ["complex", complex.__pos__(value).real, complex.__pos__(value).imag]
    else:
        packed = float.__pos__(value) if tag == "float" else str.__str__(value)
    return packed if type(value) in _NUMBERS else keep(value, packed)


def _pack_other(value: Any, tag: str, foreign: Foreign, keep: Keep) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return pack(value.item(), foreign, keep)
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in "biufcSU":
        return ["array", value.dtype.str, pack(value.tolist(), foreign, keep)]
    if tag:
        return _pack_number(value, tag, keep)
    if type(value) is range:
        return ["range", *(pack(number, foreign, keep) for number in (value.start, value.stop, value.step))]
    if type(value) is datetime.timedelta:
        return ["timedelta", value.days, value.seconds, value.microseconds]
    if value is Ellipsis or value is NotImplemented:
        return ["constant", repr(value)]
    if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
        return ["type", value.__name__]
    return foreign(value)


def unpack(packed: Any, resolve: Resolve) -> Any:
    """The value that `pack` was given.

    Raises:
        ValueError, TypeError, IndexError, ArithmeticError, RecursionError: it isn't of `pack`'s making.
    """
    if type(packed) is not list:
        if isinstance(packed, dict):
            raise ValueError("not a packed value")
        return packed
    tag, *items = packed
    if tag in _CONTAINERS:
        kind = _CONTAINERS[tag][0]
        values = [item if type(item) is not list else unpack(item, resolve) for item in items]
        if tag == "keys":
            return dict.fromkeys(values).keys()
        if tag == "values":
            return dict(enumerate(values)).values()
        if tag == "items":
            return dict(values).items()
        return kind(dict(values)) if tag == "counter" else kind(values)
    if tag in _TEXTS:
        return _TEXTS[tag][2](items[0])
    return _unpack_other(tag, items, packed, resolve)


def _unpack_other(tag: str, items: list[Any], packed: list[Any], resolve: Resolve) -> Any:
    if tag == "int":
        return int(items[0], 16)
    if tag == "complex":
        return complex(*items)
    if tag == "range":
        return range(*(unpack(item, resolve) for item in items))
    if tag == "timedelta":
        return datetime.timedelta(*items)
    if tag == "constant":
        return {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[items[0]]
    if tag == "type":
        found = getattr(builtins, items[0])
        if not isinstance(found, type):
            raise ValueError(f"no type: {items[0]}")
        return found
    if tag == "array":
        import numpy  # the program has made an array, so it is installed

        return numpy.array(unpack(items[1], resolve), dtype=numpy.dtype(items[0]))
    return resolve(packed)


def restore(old: Any, new: Any) -> None:
    """Make `old`, a mutable value that was sent, what the other side has made of its copy, nested values included."""
    if type(old) is not type(new):
        return
    if isinstance(old, list | collections.deque):
        kept = [_restored(before, after) for before, after in zip(old, new, strict=False)]
        rest = list(new)[len(kept) :]
        old.clear()
        old.extend(kept + rest)
    elif isinstance(old, dict):
        pairs = {key: _restored(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(pairs)
    elif isinstance(old, set):
        old.clear()
        old.update(new)
    elif isinstance(old, bytearray):
        old[:] = new
    elif isinstance(old, tuple):
        for before, after in zip(old, new, strict=False):
            restore(before, after)


def _restored(before: Any, after: Any) -> Any:
    """`before`, changed to equal `after`, where it is of a kind that can be changed; else `after`."""
    if type(before) is type(after) and isinstance(before, list | dict | set | bytearray | collections.deque):
        restore(before, after)
        return before
    return after
