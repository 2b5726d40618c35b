"""The taxonomy of errors and its renderings."""

from __future__ import annotations

import pytest

from artcafe_common.errors import (
    RENDERINGS,
    CloseCode,
    ErrorBody,
    ErrorCode,
    Quota,
    ServiceError,
    invalid,
    not_found,
    permission_denied,
    unavailable,
)

CLOSE_CODES = set(CloseCode)


def test_every_code_has_a_rendering() -> None:
    """No code is without an HTTP status, a title, a close code and a word on trying again."""
    assert set(RENDERINGS) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_rendering_makes_sense(code: ErrorCode) -> None:
    """Statuses are errors, close codes are known ones, and what may be tried again says so in both."""
    rendering = RENDERINGS[code]
    assert 400 <= rendering.http_status < 600
    assert rendering.title
    assert rendering.close_code in CLOSE_CODES
    # The range of a close code tells clients whether to come back.
    if rendering.close_code >= 4000:
        assert rendering.retryable == (rendering.close_code < 4500)
    assert ServiceError(code, "x").http_status == rendering.http_status
    assert ServiceError(code, "x").close_code == rendering.close_code


def test_server_never_ends_a_session_for_good() -> None:
    """Agents stop for good on 1000 and 1001, so no error closes with these."""
    assert not {rendering.close_code for rendering in RENDERINGS.values()} & {1000, 1001}


def test_rate_is_429_and_a_plans_limit_402() -> None:
    """The same code is a rate without a quota and a plan's limit with one."""
    rate = ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "slow down", retry_after=1)
    assert (rate.http_status, rate.close_code) == (429, CloseCode.RATE)
    plan = ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "full", quota=Quota("agents", 3, 3, "free"))
    assert (plan.http_status, plan.close_code) == (402, CloseCode.QUOTA)


@pytest.mark.parametrize(
    "error",
    [
        ServiceError(ErrorCode.NOT_FOUND, "agent not found"),
        ServiceError(ErrorCode.UNAVAILABLE, "later", retry_after=1.5),
        ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "full", quota=Quota("agents", 3, 3, "free")),
    ],
)
def test_error_survives_the_way_between_services(error: ServiceError) -> None:
    """An error rebuilt from its body says all that it said."""
    again = ServiceError.from_body(error.body())
    for name in ("code", "detail", "retry_after", "quota", "http_status", "close_code"):
        assert getattr(again, name) == getattr(error, name)


def test_unknown_code_is_internal() -> None:
    """A newer service's code becomes `internal`."""
    assert ServiceError.from_body(ErrorBody("teapot", "hm")).code == ErrorCode.INTERNAL


def test_error_shows_code_and_detail() -> None:
    """An error in a log says what it is."""
    assert str(ServiceError(ErrorCode.NOT_FOUND, "agent not found")) == "not_found: agent not found"


def test_short_hands() -> None:
    """The functions for common errors give their codes."""
    assert (invalid("x").code, invalid("x").detail) == (ErrorCode.INVALID_ARGUMENT, "x")
    assert (not_found("agent").code, not_found("agent").detail) == (ErrorCode.NOT_FOUND, "agent not found")
    assert permission_denied("x").code == ErrorCode.PERMISSION_DENIED
    assert unavailable("x").code == ErrorCode.UNAVAILABLE
    assert unavailable("x").retry_after == 1.0
