"""Items in DynamoDB's typed form and as plain dicts, and the names and values of expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, DecimalException
from typing import Any

from boto3.dynamodb.types import (  # type: ignore[import-untyped]
    Binary,
    TypeDeserializer,
    TypeSerializer,
)

from artcafe_common.errors import ServiceError, invalid

Item = dict[str, Any]

_NAME_RE = re.compile(r"#(\w+)")
_EXPONENT_MAX = 125
_serializer = TypeSerializer()
_deserializer = TypeDeserializer()


def marshal(item: Mapping[str, Any]) -> Item:
    """Turn an item into DynamoDB's typed form; attributes that are None or an empty set are left out.

    Raises: ServiceError ``invalid_argument`` for a number that DynamoDB cannot hold.
    """
    return {name: _serialized(value) for name, value in item.items() if not _is_nothing(value)}


def unmarshal(item: Mapping[str, Any]) -> Item:
    """Turn DynamoDB's typed form into a plain item."""
    return {name: _inward(_deserializer.deserialize(value)) for name, value in item.items()}


def _is_nothing(value: Any) -> bool:
    # DynamoDB has no empty sets.
    return value is None or (isinstance(value, set | frozenset) and not value)


def _serialized(value: Any) -> Any:
    try:
        return _serializer.serialize(_outward(value))
    except DecimalException:
        raise _unfit() from None


def _unfit() -> ServiceError:
    return invalid("a number is outside what the store can hold")


def _outward(value: Any) -> Any:
    if isinstance(value, float | int) and not isinstance(value, bool):
        number = Decimal(repr(value))
        # boto's own context lets a little more through than the store takes.
        if not number.is_finite() or number.adjusted() > _EXPONENT_MAX:
            raise _unfit()
        return number
    if isinstance(value, dict):
        return {name: _outward(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_outward(part) for part in value]
    if isinstance(value, set | frozenset):
        return {_outward(part) for part in value}
    return value


def _inward(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Binary):
        return bytes(value.value)
    if isinstance(value, dict):
        return {name: _inward(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_inward(part) for part in value]
    if isinstance(value, set):
        return {_inward(part) for part in value}
    return value


def expressions_of(expressions: Iterable[str | None], values: Mapping[str, Any] | None) -> Item:
    """Return the names and values that expressions of a request use."""
    names = {name for text in expressions if text for name in _NAME_RE.findall(text)}
    made: Item = {}
    if names:
        made["ExpressionAttributeNames"] = {f"#{name}": name for name in sorted(names)}
    if values:
        made["ExpressionAttributeValues"] = {f":{name}": _serialized(value) for name, value in values.items()}
    return made
