"""What a dashboard asks of its preview."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from gateway_fakes import message

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_gateway.frames import SubscribeTopicPreview, dashboard_decoder, undecodable
from artcafe_gateway.preview.selection import Selection
from artcafe_gateway.preview.wanted import Wanted, wanted


def ask(**fields: Any) -> Wanted:
    """Return what a dashboard of tenant ``t1`` asks for with a command."""
    command = dashboard_decoder.decode(msgspec.json.encode({"type": "subscribe_topic_preview"} | fields))
    assert isinstance(command, SubscribeTopicPreview)
    return wanted(command, "t1")


def test_without_words_everything_is_wanted() -> None:
    """All channels, every message, one by one."""
    assert ask() == Wanted(patterns=(">",))
    assert ask().selects == ((">",), None) and not ask().by_message


def test_patterns_are_of_channels_or_subjects() -> None:
    """A pattern may be written as of channel ids, below ``channel.``, or as a whole subject of the tenant."""
    asked = ask(patterns=["a.*", "channel.b", "tenant.t1.channel.c.>"], pattern="d")
    assert asked.patterns == ("a.*", "b", "c.>", "d")
    assert ask(pattern="tenant.t1.>").patterns == ask(pattern="tenant.t1.channel.>").patterns == (">",)


@pytest.mark.parametrize("pattern", ["tenant.t2.>", "tenant.t1x.channel.a", "tenant.t.channel.a", "tenant.>"])
def test_another_tenants_subject_is_refused(pattern: str) -> None:
    """Whole tokens are compared, and in conditions as in patterns."""
    for fields in ({"pattern": pattern}, {"where": {"channel": pattern}}):
        with pytest.raises(ServiceError) as caught:
            ask(**fields)
        assert caught.value.code == ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ({}, {"a", "b", "c"}),
        ({"sender": "alice"}, {"a", "c"}),
        ({"sender": ["alice", "user:ann"]}, {"a", "b", "c"}),
        ({"sender": "alic"}, set()),
        ({"sender": 'a"b'}, set()),
        ({"channel": "team.*"}, {"a", "b"}),
        ({"channel": ["other", "team.y"]}, {"b", "c"}),
        ({"size": {"min": 10}}, {"c"}),
        ({"size": {"max": 9}}, {"a", "b"}),
        ({"size": {"min": 3, "max": 3}}, {"b"}),
        ({"sender": "alice", "channel": "team.>", "size": {"max": 3}}, {"a"}),
    ],
)
def test_where_conditions_must_all_hold(where: dict[str, Any], taken: set[str]) -> None:
    """By sender, channel and bytes of data, both ends of a range included."""
    asked = ask(where=where)
    messages = {
        "a": ("team.x", message("team.x", 1, "alice")),
        "b": ("team.y", message("team.y", 123, "user:ann")),
        "c": ("other", message("other", "x" * 8, "alice")),
    }
    selection = Selection(asked.selects)
    assert {
        name
        for name, (channel, frame) in messages.items()
        if selection.takes(channel, channel.split(".")) and asked.takes(frame)
    } == taken


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"where": {"sendr": "alice"}}, "sendr"),
        ({"where": {"size": {"minimum": 1}}}, "minimum"),
        ({"where": {"size": {"min": -1}}}, "$.where.size.min"),
        ({"where": {"size": {"min": 2, "max": 1}}}, "max is less than min"),
        ({"where": {"size": 5}}, "$.where.size"),
        ({"where": {"sender": 5}}, "$.where.sender"),
        ({"where": {"sender": []}}, "empty"),
        ({"where": {"channel": ""}}, "empty"),
        ({"where": {"channel": "a b"}}, "not a valid id"),
        ({"where": []}, "$.where"),
        ({"patterns": ["a..b"]}, "not a valid id"),
        ({"patterns": []}, "an empty list"),
        ({"pattern": ""}, "not a valid id"),
        ({"counts_only": 1}, "$.counts_only"),
        ({"sample": 0}, "$.sample"),
        ({"sample": 0.1}, "$.sample"),
        ({"max_rate": 0}, "$.max_rate"),
        ({"max_bytes": -1}, "$.max_bytes"),
        ({"batch": "yes"}, "$.batch"),
    ],
)
def test_what_cannot_be_asked_is_named(fields: dict[str, Any], named: str) -> None:
    """The answer says which field is wrong, and nothing is left out silently."""
    try:
        ask(**fields)
    except ServiceError as error:
        problem = error
    except msgspec.ValidationError as error:
        payload = msgspec.json.encode({"type": "subscribe_topic_preview"} | fields)
        problem, _ = undecodable(payload, error)
    assert problem.code == ErrorCode.INVALID_ARGUMENT
    assert named in problem.detail
