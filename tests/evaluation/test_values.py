"""Values that go between a program and its tests arrive as they were."""

import collections
import datetime
import enum
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscoder_exp.evaluation.jail.values import pack, restore, unpack

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
HASHABLE = st.recursive(
    st.one_of(
        SCALARS, st.complex_numbers(allow_nan=False), st.fractions(), st.dates(), st.datetimes(), st.timedeltas()
    ),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(HASHABLE, inner, max_size=4), st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=10,
)


def refuse(value: Any) -> Any:
    raise TypeError(f"not plain: {value!r}")


def keep_nothing(_: Any, packed: Any) -> Any:
    return packed


def sent(value: Any) -> Any:
    return unpack(json.loads(json.dumps(pack(value, refuse, keep_nothing))), refuse)


@given(VALUES)
def test_a_value_arrives_with_its_type(value: Any) -> None:
    found = sent(value)
    assert found == value
    assert repr(found) == repr(value) or isinstance(value, set | frozenset | tuple | list | dict)
    assert type(found) is type(value)


class Colour(enum.IntEnum):
    RED = 1


class Text(str): ...


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 << 63, 1 << 63),
        (-(2**62), -(2**62)),
        (math.inf, math.inf),
        ("\ud800 \x00", "\ud800 \x00"),
        (range(1, 9, 2), range(1, 9, 2)),
        (collections.Counter("aab"), collections.Counter("aab")),
        (collections.deque([1, [2]]), collections.deque([1, [2]])),
        (collections.OrderedDict(b=1, a=2), collections.OrderedDict(b=1, a=2)),
        ({1: "a"}.keys(), {1}),
        ({1: "a"}.items(), {(1, "a")}),
        (Decimal("1.10"), Decimal("1.10")),
        (Fraction(1, 3), Fraction(1, 3)),
        (datetime.time(1, 2, 3, 4), datetime.time(1, 2, 3, 4)),
        (bytearray(b"\xff"), bytearray(b"\xff")),
        (int, int),
        (..., ...),
        (Colour.RED, 1),
        (Text("x"), "x"),
        (Point(1, 2), (1, 2)),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
    ],
)
def test_a_kind_arrives(value: Any, expected: Any) -> None:
    found = sent(value)
    assert found == expected
    assert type(found) is type(expected) or isinstance(expected, set)


def test_an_array_arrives() -> None:
    found = sent(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_is_not_plain_is_asked_about() -> None:
    assert pack([refuse], lambda value: ["object", 7], keep_nothing) == ["list", ["object", 7]]
    assert unpack(["tuple", ["object", 7]], lambda packed: packed[1]) == (7,)


def test_an_instance_of_a_subclass_is_asked_about_too() -> None:
    found = pack(
        [Point(1, 2), Colour.RED, np.float64(0.5)], refuse, lambda value, packed: ["kept", repr(value), packed]
    )
    assert found == ["list", ["kept", "Point(x=1, y=2)", ["tuple", 1, 2]], ["kept", "<Colour.RED: 1>", 1], 0.5]


@pytest.mark.parametrize(
    "packed", [{"a": 1}, ["int", "x"], ["type", "print"], ["bytes", "zz"], ["object"], ["no such"]]
)
def test_what_was_not_packed_is_an_error(packed: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        unpack(packed, refuse)


def test_an_argument_becomes_what_its_copy_became_with_the_values_that_it_holds() -> None:
    inner: list[Any] = [1]
    value = [inner, {"a": inner}, {1}]
    restore(value, [[1, 2], {"a": [1, 2], "b": 0}, {2}, 4])
    assert value == [[1, 2], {"a": [1, 2], "b": 0}, {2}, 4]
    assert inner == [1, 2]
    assert value[0] is inner
