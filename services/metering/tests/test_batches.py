from __future__ import annotations

from typing import Any

import msgspec
import pytest

from artcafe_common.contracts.metering import UsageBatch, UsageRow
from artcafe_common.ids import is_token
from artcafe_metering.batches import (
    COUNT_MAX,
    SEQ_MAX,
    CheckedBatch,
    CheckedRow,
    PoisonError,
    aside_name,
    only_tenants,
    read_batch,
)
from artcafe_metering.periods import rfc3339

NOW = 1_790_000_000.0
OLDEST = NOW - 29 * 86_400


def payload(*rows: UsageRow, source: str = "s1", seq: int = 1, start: float = NOW) -> bytes:
    """Return an encoded batch."""
    return msgspec.json.encode(
        UsageBatch(source=source, seq=seq, start=start, end=start + 1, rows=list(rows))
    )


def read(data: bytes, subject: str = "usage.v1.batch.s1") -> Any:
    """Read a batch at `NOW`."""
    return read_batch(subject, data, OLDEST, NOW)


def test_rows_add_up_per_tenant_agent_and_channel() -> None:
    """Rows of one tenant are summed in all, and for each agent and channel that they name."""
    batch = read(
        payload(
            UsageRow("t1", "a1", "c1", messages=1, bytes_in=10),
            UsageRow("t1", "a1", "c2", messages=2, bytes_in=20, connection_seconds=0.0015),
            UsageRow("t1", "a2", "c1", deliveries=3, bytes_out=30),
            UsageRow("t2", api_calls=4),
        )
    )
    assert (batch.source, batch.seq, rfc3339(batch.hour)[11:]) == ("s1", 1, "14:00:00Z")
    assert list(batch.tenants) == ["t1", "t2"]
    one = batch.tenants["t1"]
    assert one.totals == (3, 3, 30, 30, 0, 2)
    assert one.agents == {"a1": (3, 0, 30, 0, 0, 2), "a2": (0, 3, 0, 30, 0, 0)}
    assert one.channels == {"c1": (1, 3, 10, 30, 0, 0), "c2": (2, 0, 20, 0, 0, 2)}
    two = batch.tenants["t2"]
    assert (two.totals, two.agents, two.channels) == ((0, 0, 0, 0, 4, 0), {}, {})


def test_people_who_publish_have_figures_as_agents_have() -> None:
    """A person who publishes from a dashboard stands in the agent's place."""
    batch = read(payload(UsageRow("t1", "user:auth0|1", messages=1)))
    assert batch.tenants["t1"].agents == {"user:auth0|1": (1, 0, 0, 0, 0, 0)}


def test_what_is_checked_is_what_is_published() -> None:
    """The checked types have the columns and fields of the contract, in its order."""
    assert CheckedRow.__struct_fields__ == UsageRow.__struct_fields__
    assert CheckedRow.__struct_defaults__ == UsageRow.__struct_defaults__
    assert CheckedBatch.__struct_fields__ == UsageBatch.__struct_fields__


def test_a_batch_without_rows_is_one() -> None:
    """Nothing to count is no error."""
    assert read(payload()).tenants == {}


def test_what_a_newer_sender_adds_is_ignored() -> None:
    """Unknown fields of a batch and further columns of a row do not make it unreadable."""
    data = b'{"source":"s1","seq":1,"start":%d,"end":1,"new":{},"rows":[["t1","","",1,0,0,0,0,0.0,9]]}' % NOW
    assert read(data).tenants["t1"].totals[0] == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        payload()[:-1],
        payload(source="s2"),
        payload(source="s.1"),
        payload(source=""),
        payload(seq=0),
        payload(seq=-1),
        payload(seq=SEQ_MAX + 1),
        payload(start=OLDEST - 1),
        payload(start=NOW + 3601),
        payload(start=1e300),
        payload(UsageRow("")),
        payload(UsageRow("t1", "*")),
        payload(UsageRow("t1", "user:a\nb")),
        payload(UsageRow("t1", "user:" + "x" * 300)),
        payload(UsageRow("t1", "a1", "c..1")),
        payload(UsageRow("t1", "a1", "c.>")),
        payload(UsageRow("t}1")),
        payload(UsageRow("t1", messages=-1)),
        payload(UsageRow("t1", bytes_out=COUNT_MAX + 1)),
        payload(UsageRow("t1", connection_seconds=-0.1)),
        payload(UsageRow("t1", connection_seconds=1e300)),
        payload(UsageRow("t1")).replace(b"0.0]", b"NaN]"),
        payload(UsageRow("t1")).replace(b"0.0]", b"1e999]"),
        payload(UsageRow("t1")).replace(b'"t1",', b'"t1","a",null,'),
        payload(UsageRow("t1", messages=1)).replace(b",1,", b",1.5,"),
        payload(UsageRow("t1", messages=1)).replace(b",1,", b",99999999999999999999999,"),
    ],
)
def test_poison_is_refused_without_quoting_it(data: bytes) -> None:
    """What violates the contract in any way is told apart, with a reason that holds nothing of it."""
    with pytest.raises(PoisonError) as caught:
        read(data)
    assert caught.value.reason
    assert len(caught.value.reason) <= 200


def test_a_batch_under_another_subject_is_refused() -> None:
    """A source publishes on its own subject only."""
    with pytest.raises(PoisonError):
        read(payload(), subject="usage.v1.batch.s2")


def test_the_largest_batch_still_fits_into_a_counter() -> None:
    """The sum over as many rows as a message can hold stays within 64 bits."""
    assert COUNT_MAX * 1024 * 1024 < 2**63


def test_good_rows_are_kept_and_bad_ones_become_a_batch_of_their_own() -> None:
    """One bad row spoils neither the rest of its tenant nor that of others; a tenant of bad rows is known."""
    rows = [UsageRow("t1", "a1", messages=1), UsageRow("t1", "a*", messages=2), UsageRow("t2", messages=4)]
    data = payload(*rows, UsageRow("t3", messages=-8), UsageRow("t 4", messages=16), seq=7)
    batch = read(data)
    assert {name: added.totals[0] for name, added in batch.tenants.items()} == {"t1": 1, "t2": 4, "t3": 0}
    assert (batch.source, batch.seq, batch.was_aside) == ("s1", 7, False)
    aside = batch.aside
    assert aside.reason == "3 of 5 rows: an agent_id is not valid"
    assert aside.subject == f"usage.v1.batch.{aside_name('s1', 7)}"
    kept = msgspec.json.decode(aside.payload, type=UsageBatch)
    assert (kept.source, kept.seq, kept.start, kept.end) == (aside_name("s1", 7), 1, NOW, NOW + 1)
    assert [row.messages for row in kept.rows] == [2, -8, 16]
    # Nothing of it is good now; once it is, it is known for what it is.
    with pytest.raises(PoisonError):
        read(aside.payload, aside.subject)
    assert read(aside.payload.replace(b"*", b"x"), aside.subject).was_aside


def test_names_of_what_was_put_aside_are_tokens_and_differ() -> None:
    """They are as long as a source may be, also for one with the longest name and number."""
    names = {aside_name(source, seq) for source in ("s", "x" * 64, "y" * 64) for seq in (1, SEQ_MAX)}
    assert len(names) == 6
    assert all(is_token(name) for name in names)


def test_rows_of_some_tenants_are_a_batch_of_the_same_name() -> None:
    """What one tenant cannot take is kept with its source and sequence."""
    data = payload(UsageRow("t1", messages=1), UsageRow("t2", messages=2), UsageRow("t1", messages=3), seq=9)
    batch = read(only_tenants(data, {"t1"}))
    assert (batch.source, batch.seq, batch.aside) == ("s1", 9, None)
    assert {name: added.totals[0] for name, added in batch.tenants.items()} == {"t1": 4}


def test_bad_rows_of_a_tenant_are_not_put_aside_with_its_good_ones() -> None:
    """They are in a batch of their own, and would keep these from being put back, or count twice some day."""
    data = payload(UsageRow("t1", messages=1), UsageRow("t1", "a*", messages=2), UsageRow("t2", messages=4))
    batch = read(only_tenants(data, {"t1"}))
    assert batch.aside is None
    assert {name: added.totals[0] for name, added in batch.tenants.items()} == {"t1": 1}
