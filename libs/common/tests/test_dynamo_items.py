"""Items between Python and DynamoDB."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artcafe_common.dynamo_items import expressions_of, marshal, unmarshal
from artcafe_common.errors import ErrorCode, ServiceError

NUMBERS = st.integers(-(10**38) + 1, 10**38 - 1) | st.floats(-1e125, 1e125).filter(
    lambda number: number == 0 or abs(number) > 1e-127
)
SETS = (
    st.sets(st.text(), min_size=1)
    | st.sets(st.binary(), min_size=1)
    | st.sets(NUMBERS, min_size=1)
    | st.frozensets(st.integers(-9, 9), min_size=1)
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.binary() | SETS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.text(min_size=1), VALUES))
@example({"zero": -0.0, "whole": 2.0, "great": 1e125, "small": 1e-127, "tenth": 0.1})
@example({"empty": "", "list": [], "map": {}, "bytes": b"", "nested": [None, {"": ""}]})
@example({"yes": True, "one": 1, "ones": [True, 1, 1.0]})
def test_item_comes_back_as_it_was(item: dict[str, Any]) -> None:
    """What is put into an item is what comes out; attributes that are None are as if not there."""
    back = unmarshal(marshal(item))
    expected = {name: _stored(value) for name, value in item.items() if value is not None}
    assert back == expected
    assert _types(back) == _types(expected)


def _stored(value: Any) -> Any:
    """Return a value as a store keeps it: numbers are decimal, and whole ones `int` whatever they were."""
    if isinstance(value, dict):
        return {name: _stored(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(part) for part in value]
    if isinstance(value, set | frozenset):
        return {_stored(part) for part in value}
    return int(Decimal(repr(value))) if isinstance(value, float) and value.is_integer() else value


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _types(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_types(part) for part in value]
    return type(value)


def test_typed_form_is_dynamodbs() -> None:
    """The typed form is the one on the wire."""
    assert marshal({"s": "x", "n": 1.5, "b": True, "l": (1,), "none": None, "set": frozenset({"a"})}) == {
        "s": {"S": "x"},
        "n": {"N": "1.5"},
        "b": {"BOOL": True},
        "l": {"L": [{"N": "1"}]},
        "set": {"SS": ["a"]},
    }


def test_empty_set_is_left_out() -> None:
    """DynamoDB has no empty sets: an attribute that is one is as if it were not there."""
    assert marshal({"a": set(), "b": frozenset(), "c": 1}) == {"c": {"N": "1"}}


@pytest.mark.parametrize(
    "number",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        1e126,
        -1.5e300,
        1e-200,
        5e-324,
        10**38 + 1,
        10**126,
        -(10**200),
    ],
)
@pytest.mark.parametrize("nest", [lambda n: n, lambda n: [n], lambda n: {"a": [n]}, lambda n: {n}])
def test_number_that_cannot_be_stored_is_refused(number: Any, nest: Any) -> None:
    """A number outside of DynamoDB's range or precision is whoever sent it's fault, at whatever depth."""
    value = {"a": nest(number)}
    with pytest.raises(ServiceError) as in_item:
        marshal(value)
    with pytest.raises(ServiceError) as in_expression:
        expressions_of(["x"], value)
    assert in_item.value.code == in_expression.value.code == ErrorCode.INVALID_ARGUMENT


def test_types_that_are_none_of_dynamodbs_are_a_bug() -> None:
    """An object that cannot be stored is a mistake of the program and not a client's."""
    with pytest.raises(TypeError):
        marshal({"a": object()})


def test_names_and_values_of_expressions() -> None:
    """Each `#name` stands for its attribute, whatever DynamoDB reserves, each `:name` for its value."""
    made = expressions_of(
        ["SET #status = :status, #owner = :o", None, "#status <> :status"], {"status": 1, "o": "x"}
    )
    assert made == {
        "ExpressionAttributeNames": {"#owner": "owner", "#status": "status"},
        "ExpressionAttributeValues": {":status": {"N": "1"}, ":o": {"S": "x"}},
    }
    assert expressions_of([None], None) == {}
    assert expressions_of(["attribute_exists(#a)"], {}) == {"ExpressionAttributeNames": {"#a": "a"}}


def test_value_may_be_none() -> None:
    """A value of an expression is NULL where it is None: it cannot be left out."""
    assert expressions_of(["SET #a = :a"], {"a": None})["ExpressionAttributeValues"] == {":a": {"NULL": True}}
