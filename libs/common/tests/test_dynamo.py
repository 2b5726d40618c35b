"""What is done with DynamoDB's refusals; the rest is tested on a real store."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError

from artcafe_common import metrics
from artcafe_common.dynamo import ConditionFailed, Dynamo, TableSpec, TransactionFailed
from artcafe_common.errors import ErrorCode, ServiceError

SPEC = TableSpec("things", "id")


class FakeClient:
    """A client that answers as it was told, one answer after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, **arguments: Any) -> Any:
        """Answer a call."""
        self.asked.append(arguments)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(arguments) if callable(answer) else answer

    def __getattr__(self, name: str) -> Any:
        return self


def _error(code: str, **more: Any) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}, **more}, "Operation")  # type: ignore[typeddict-item]


def _cancelled(*reasons: str) -> ClientError:
    return _error(
        "TransactionCanceledException", CancellationReasons=[{"Code": reason} for reason in reasons]
    )


async def _raised(error: Exception) -> Exception:
    with pytest.raises(Exception) as caught:
        await Dynamo(FakeClient(error), "p-").table(SPEC).get({"id": "1"})
    return caught.value


@pytest.mark.parametrize(
    "code",
    [
        *("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"),
        *("InternalServerError", "ResourceNotFoundException", "ExpiredTokenException", "SomethingNew"),
    ],
)
async def test_store_that_cannot_now_is_unavailable(code: str) -> None:
    """A table that is throttled, away or not there is `unavailable` with a hint, and counted."""
    counter = metrics.STORE_ERRORS.labels(code)
    before = counter._value.get()
    error = await _raised(_error(code))
    assert isinstance(error, ServiceError)
    assert (error.code, error.retry_after) == (ErrorCode.UNAVAILABLE, 1.0)
    assert code not in error.detail
    assert counter._value.get() == before + 1


@pytest.mark.parametrize(
    "error", [EndpointConnectionError(endpoint_url="http://secret"), TimeoutError(), ConnectionResetError()]
)
async def test_store_that_does_not_answer_is_unavailable(error: Exception) -> None:
    """No connection, or none that lasts, is `unavailable`; where the store is, is not told."""
    raised = await _raised(error)
    assert isinstance(raised, ServiceError)
    assert raised.code == ErrorCode.UNAVAILABLE
    assert "secret" not in str(raised)


@pytest.mark.parametrize(
    "error",
    [
        *(_error("ValidationException"), _error("AccessDeniedException"), _error("SerializationException")),
        *(ParamValidationError(report="x"), _cancelled("ValidationError", "None"), ValueError("a bug")),
    ],
)
async def test_bug_stays_a_bug(error: Exception) -> None:
    """What trying again will not help is not called `unavailable`."""
    assert await _raised(error) is error


async def test_condition_that_failed_says_what_stood_there() -> None:
    """The item that was in the way comes with the failure, where DynamoDB tells it."""
    error = await _raised(_error("ConditionalCheckFailedException", Item={"id": {"S": "1"}, "n": {"N": "2"}}))
    assert isinstance(error, ConditionFailed)
    assert error.item == {"id": "1", "n": 2}
    error = await _raised(_error("ConditionalCheckFailedException"))
    assert isinstance(error, ConditionFailed)
    assert error.item is None


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (_cancelled("None", "ConditionalCheckFailed", "ConditionalCheckFailed"), [1, 2]),
        (_cancelled("TransactionConflict", "None"), []),
        (_cancelled("TransactionConflict", "ConditionalCheckFailed"), [1]),
        (_error("TransactionConflictException"), []),
    ],
)
async def test_transaction_that_failed_says_which_conditions(error: ClientError, failed: list[int]) -> None:
    """Conditions that failed are named by position; a conflict with another transaction has none."""
    raised = await _raised(error)
    assert isinstance(raised, TransactionFailed)
    assert raised.failed == failed


@pytest.mark.parametrize("reason", ["ThrottlingError", "ProvisionedThroughputExceeded"])
async def test_transaction_that_was_throttled_is_unavailable(reason: str) -> None:
    """A transaction is not called a conflict where the table was at its limit."""
    raised = await _raised(_cancelled("None", reason))
    assert isinstance(raised, ServiceError)
    assert raised.code == ErrorCode.UNAVAILABLE


async def test_outage_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A store that is away is logged once in a while, not with every call."""
    table = Dynamo(FakeClient(TimeoutError()), "p-").table(SPEC)
    with caplog.at_level(logging.INFO, "artcafe_common"):
        for _ in range(20):
            with pytest.raises(ServiceError):
                await table.get({"id": "1"})
    assert [record.message for record in caplog.records] == ["store_unavailable"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses take no time, and are noted."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    return pauses


async def test_what_a_table_did_not_take_is_sent_again(quick: list[float]) -> None:
    """A table at its limit gets what it handed back, until it has all, with pauses."""
    stored: list[str] = []

    def take_some(arguments: dict[str, Any]) -> dict[str, Any]:
        [(name, requests)] = arguments["RequestItems"].items()
        assert len(requests) <= 25
        taken, rest = requests[:7], requests[7:]
        stored.extend(request["PutRequest"]["Item"]["id"]["S"] for request in taken)
        return {"UnprocessedItems": {name: rest} if rest else {}}

    client = FakeClient(take_some)
    await Dynamo(client, "p-").table(SPEC).put_many({"id": str(number)} for number in range(60))
    assert sorted(stored, key=int) == [str(number) for number in range(60)]
    assert quick
    assert max(quick) <= 1.0


async def test_table_that_takes_nothing_is_unavailable(quick: list[float]) -> None:
    """A table that hands back everything, again and again, is given up."""
    client = FakeClient(lambda arguments: {"UnprocessedItems": arguments["RequestItems"]})
    with pytest.raises(ServiceError) as caught:
        await Dynamo(client, "p-").table(SPEC).delete_many([{"id": "1"}])
    assert caught.value.code == ErrorCode.UNAVAILABLE
    assert len(client.asked) < 20


async def test_tables_have_their_prefix() -> None:
    """Environments are kept apart by what table names start with."""
    client = FakeClient({})
    await Dynamo(client, "staging-").table(SPEC).get({"id": "1"})
    assert client.asked[0]["TableName"] == "staging-things"
