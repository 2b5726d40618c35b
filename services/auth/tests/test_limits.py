"""Rates of what strangers may ask for."""

from collections.abc import Callable

import pytest

from artcafe_auth.limits import RateLimits, client_of
from artcafe_common.errors import ServiceError

from .support import ManualClock


def _limits(**rates: int) -> RateLimits:
    given = {"address_rate": 0, "agent_rate": 0, "login_rate": 0} | rates
    return RateLimits(clock=ManualClock(), **given)


def test_zero_is_no_limit() -> None:
    """A rate of 0 switches a limit off."""
    limits = _limits()
    for _ in range(10_000):
        limits.challenge("t1", "a1", "192.0.2.1")
        limits.proof("192.0.2.1")
        limits.login("a@example.com", "192.0.2.1")


def test_one_address_cannot_use_up_an_agents_challenges() -> None:
    """A stranger who asks in an agent's name is stopped, and the agent itself is not."""
    limits = _limits(agent_rate=3)
    for _ in range(3):
        limits.challenge("t1", "a1", "192.0.2.66")
    with pytest.raises(ServiceError):
        limits.challenge("t1", "a1", "192.0.2.66")
    limits.challenge("t1", "a1", "192.0.2.1")
    limits.challenge("t1", "a2", "192.0.2.66")
    limits.challenge("t2", "a1", "192.0.2.66")


def _exhaust(ask: Callable[..., None], *what: str) -> int:
    """Ask until it is refused, and return how often it was not."""
    for number in range(10_000):
        try:
            ask(*what)
        except ServiceError:
            return number
    raise AssertionError("never refused")


def test_agents_challenges_are_limited_over_all_addresses() -> None:
    """Beyond what each address has to itself, many together reach a limit: with 60 a minute, at 600."""
    limits = _limits(agent_rate=60)
    got = [_exhaust(limits.challenge, "t1", "a1", f"192.0.2.{n}") for n in range(100)]
    assert got == [60] * 12 + [10] * 88


def test_no_number_of_addresses_keeps_an_agent_out() -> None:
    """Whatever others have used up, an address that has not asked yet gets its challenges."""
    limits = _limits(agent_rate=60)
    for number in range(200):
        _exhaust(limits.challenge, "t1", "a1", f"198.51.100.{number}")
    assert _exhaust(limits.challenge, "t1", "a1", "192.0.2.1") == 10


def test_address_is_limited_over_all_agents() -> None:
    """One address cannot fill the table with challenges for ever new agents."""
    limits = _limits(address_rate=10)
    for number in range(10):
        limits.challenge("t1", f"a{number}", "192.0.2.1")
    with pytest.raises(ServiceError):
        limits.challenge("t1", "another", "192.0.2.1")
    # Proofs are counted apart: who has a challenge may use it.
    limits.proof("192.0.2.1")


def test_unknown_address_is_no_address() -> None:
    """Requests without an address do not share one bucket."""
    limits = _limits(address_rate=1, login_rate=1)
    for number in range(5):
        limits.challenge("t1", f"a{number}", "")
        limits.proof("")
        limits.login(f"{number}@example.com", "")


def test_logins_are_limited_by_email_and_by_address() -> None:
    """Guessing one person's password from everywhere, or everyone's from one place, is slowed down."""
    limits = _limits(login_rate=30)
    got = [_exhaust(limits.login, "a@example.com", f"192.0.2.{n}") for n in range(4)]
    # Five from each address, and thirty that they share.
    assert got == [30, 10, 5, 5]
    for number in range(30):
        limits.login(f"{number}@example.com", "192.0.2.50")
    with pytest.raises(ServiceError):
        limits.login("30@example.com", "192.0.2.50")


def test_wrong_passwords_of_others_do_not_lock_a_person_out() -> None:
    """Whoever guesses at an account, its owner signs in at an address of their own."""
    limits = _limits(login_rate=30)
    for number in range(50):
        _exhaust(limits.login, "a@example.com", f"198.51.100.{number}")
    for _ in range(5):
        limits.login("a@example.com", "192.0.2.1")


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_client_is_what_one_person_has(address: str, client: str) -> None:
    """An IPv6 client has a whole network to come from, so the network is counted."""
    assert client_of(address) == client
