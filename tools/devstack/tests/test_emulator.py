"""The AWS emulator keeps what it has acknowledged, whatever happens to its process."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from artcafe_devstack.ports import free_port
from artcafe_devstack.process import ManagedProcess
from artcafe_devstack.servers import AwsEndpoint, RunningServer, aws_emulator, emulator_spec

_NO_RETRIES = Config(
    retries={"total_max_attempts": 1}, connect_timeout=30, read_timeout=60, max_pool_connections=32
)
# What a client sees when its server is gone; a refusal is none of them, and fails the test.
_AWAY = (BotoCoreError, OSError)
_TABLE = "journal-test"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Run a durable emulator."""
    with aws_emulator(tmp_path) as running:
        yield running


@asynccontextmanager
async def _client(service: str, server: RunningServer, account: str = "0" * 12) -> AsyncIterator[Any]:
    endpoint = AwsEndpoint(server.url, access_key_id=account)
    session: Any = aioboto3.Session(
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=endpoint.secret_access_key,
        region_name=endpoint.region,
    )
    # Presigned addresses take the older signature, which does not expire here, unless the newer one is
    # asked for.
    config = _NO_RETRIES.merge(Config(signature_version="s3v4")) if service == "s3" else _NO_RETRIES
    async with session.client(service, endpoint_url=endpoint.url, config=config) as client:
        yield client


async def _make_table(dynamodb: Any, *, ttl: bool = False) -> None:
    await dynamodb.create_table(
        TableName=_TABLE,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    if ttl:
        await dynamodb.update_time_to_live(
            TableName=_TABLE, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
        )


async def _everything(dynamodb: Any) -> dict[str, Any]:
    """Return all items by id."""
    items: dict[str, Any] = {}
    start: dict[str, Any] = {}
    while True:
        page = await dynamodb.scan(TableName=_TABLE, **start)
        items |= {item["id"]["S"]: item for item in page["Items"]}
        if "LastEvaluatedKey" not in page:
            return items
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


class _Writer:
    """Writes to an item of its own and to one that all share, and remembers what was acknowledged."""

    def __init__(self, number: int) -> None:
        self.id = f"writer-{number}"
        self.version = 0
        self.attempted = 0
        self.locks_won = 0
        self.shared_added = 0
        self.shared_attempted = 0
        self.goal = 0
        self.reached = asyncio.Event()

    async def run(self, dynamodb: Any) -> None:
        """Write until the emulator is gone."""
        with contextlib.suppress(*_AWAY):
            while True:
                await self._next_version(dynamodb)
                await self._add_to_shared(dynamodb)
                await self._fight_for_a_lock(dynamodb)
                if self.version >= self.goal:
                    self.reached.set()

    async def wrote(self, times: int) -> None:
        """Wait until a number of further rounds are acknowledged."""
        self.goal = self.version + times
        self.reached.clear()
        await self.reached.wait()

    async def _next_version(self, dynamodb: Any) -> None:
        """Replace the own item, on the condition that it is the version that was written before."""
        self.attempted = self.version + 1
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(id)"}
        if self.version:
            condition = {
                "ConditionExpression": "#v = :v",
                "ExpressionAttributeNames": {"#v": "version"},
                "ExpressionAttributeValues": {":v": {"N": str(self.version)}},
            }
        item = {"id": {"S": self.id}, "version": {"N": str(self.attempted)}}
        await dynamodb.put_item(TableName=_TABLE, Item=item, **condition)
        self.version = self.attempted

    async def _add_to_shared(self, dynamodb: Any) -> None:
        self.shared_attempted += 1
        await dynamodb.update_item(
            TableName=_TABLE,
            Key={"id": {"S": "shared"}},
            UpdateExpression="ADD #n :one, #w :me",
            ExpressionAttributeNames={"#n": "total", "#w": "writers"},
            ExpressionAttributeValues={":one": {"N": "1"}, ":me": {"SS": [self.id]}},
        )
        self.shared_added += 1

    async def _fight_for_a_lock(self, dynamodb: Any) -> None:
        """Take one of a few locks with a transaction that counts it too; several want the same one."""
        lock = f"lock-{random.randrange(200)}"
        try:
            await dynamodb.transact_write_items(
                TransactItems=[
                    {
                        "Put": {
                            "TableName": _TABLE,
                            "Item": {"id": {"S": lock}, "owner": {"S": self.id}},
                            "ConditionExpression": "attribute_not_exists(id)",
                        }
                    },
                    {
                        "Update": {
                            "TableName": _TABLE,
                            "Key": {"id": {"S": f"won-{self.id}"}},
                            "UpdateExpression": "ADD #n :one",
                            "ExpressionAttributeNames": {"#n": "locks"},
                            "ExpressionAttributeValues": {":one": {"N": "1"}},
                        }
                    },
                ]
            )
        except dynamodb.exceptions.TransactionCanceledException:
            return
        self.locks_won += 1


async def test_sigkill_under_load_loses_no_acknowledged_write(server: RunningServer) -> None:
    """Three crashes under concurrent conditional writes and transactions, and the books still agree."""
    writers = [_Writer(number) for number in range(16)]
    for crash in range(3):
        async with _client("dynamodb", server) as dynamodb:
            if crash == 0:
                await _make_table(dynamodb)
            work = [asyncio.create_task(writer.run(dynamodb)) for writer in writers]
            async with asyncio.timeout(120):
                await asyncio.gather(*(writer.wrote(10) for writer in writers))
            server.kill()
            await asyncio.gather(*work)
        server.start()
        async with _client("dynamodb", server) as dynamodb:
            _check_books(await _everything(dynamodb), writers)
            await _settle(dynamodb, writers)
    assert "replay:" not in server.log.read_text(), "every journaled write succeeded again"


def _check_books(items: dict[str, Any], writers: list[_Writer]) -> None:
    """Compare with what was acknowledged; one write of each may have lost its acknowledgement."""
    for writer in writers:
        stored = int(items[writer.id]["version"]["N"])
        assert writer.version <= stored <= writer.attempted
        won = int(items.get(f"won-{writer.id}", {"locks": {"N": "0"}})["locks"]["N"])
        locks = sum(item["owner"]["S"] == writer.id for key, item in items.items() if key.startswith("lock-"))
        assert won == locks, "a transaction is there as a whole or not at all"
        assert writer.locks_won <= won <= writer.locks_won + 1
    total = int(items["shared"]["total"]["N"])
    assert sum(w.shared_added for w in writers) <= total <= sum(w.shared_attempted for w in writers)
    assert set(items["shared"]["writers"]["SS"]) == {writer.id for writer in writers}


async def _settle(dynamodb: Any, writers: list[_Writer]) -> None:
    """Take over what was applied without being acknowledged, so that the next round starts exact."""
    items = await _everything(dynamodb)
    for writer in writers:
        writer.version = int(items[writer.id]["version"]["N"])
        writer.locks_won = int(items.get(f"won-{writer.id}", {"locks": {"N": "0"}})["locks"]["N"])
        writer.shared_added = writer.shared_attempted = 0
    writers[0].shared_added = writers[0].shared_attempted = int(items["shared"]["total"]["N"])


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_state_is_the_same_after_a_restart(server: RunningServer, how: str) -> None:
    """Tables, settings and items of every type come back, from the journal and from the snapshot."""
    item = {
        "id": {"S": "x"},
        "empty": {"S": ""},
        "number": {"N": "1.5"},
        "flag": {"BOOL": False},
        "nothing": {"NULL": True},
        "bytes": {"B": b"\x00\xff"},
        "set": {"NS": ["1", "2"]},
        "deep": {"M": {"list": {"L": [{"S": "ä"}, {"M": {}}]}}},
    }
    async with _client("dynamodb", server) as dynamodb:
        await _make_table(dynamodb, ttl=True)
        await dynamodb.put_item(TableName=_TABLE, Item=item)
        await dynamodb.put_item(TableName=_TABLE, Item={"id": {"S": "gone"}})
        await dynamodb.delete_item(TableName=_TABLE, Key={"id": {"S": "gone"}})
        table = (await dynamodb.describe_table(TableName=_TABLE))["Table"]
    for _ in range(2):
        getattr(server, how)()
        server.start()
    async with _client("dynamodb", server) as dynamodb:
        assert await _everything(dynamodb) == {"x": item}
        assert (await dynamodb.describe_table(TableName=_TABLE))["Table"] == table
        ttl = await dynamodb.describe_time_to_live(TableName=_TABLE)
        assert ttl["TimeToLiveDescription"]["AttributeName"] == "expires_at"


async def test_accounts_stay_apart_over_a_crash(server: RunningServer) -> None:
    """A write goes back to the account it was made in."""
    other = "123456789012"
    async with _client("dynamodb", server) as mine, _client("dynamodb", server, other) as theirs:
        await _make_table(mine)
        await _make_table(theirs)
        await theirs.put_item(TableName=_TABLE, Item={"id": {"S": "theirs"}})
    server.kill()
    server.start()
    async with _client("dynamodb", server) as mine, _client("dynamodb", server, other) as theirs:
        assert await _everything(mine) == {}
        assert set(await _everything(theirs)) == {"theirs"}


async def test_objects_versions_and_an_upload_in_progress_survive_sigkill(server: RunningServer) -> None:
    """S3 comes back with the ids it had given out, so that a client can go on where it was."""
    async with _client("s3", server) as s3:
        await s3.create_bucket(Bucket="journal-bucket")
        await s3.put_bucket_versioning(Bucket="journal-bucket", VersioningConfiguration={"Status": "Enabled"})
        first = await s3.put_object(Bucket="journal-bucket", Key="a b/ä", Body=b"one", Metadata={"k": "v"})
        await s3.put_object(Bucket="journal-bucket", Key="a b/ä", Body=b"two")
        upload = await s3.create_multipart_upload(Bucket="journal-bucket", Key="big")
        where = {"Bucket": "journal-bucket", "Key": "big", "UploadId": upload["UploadId"]}
        part = await s3.upload_part(**where, PartNumber=1, Body=b"x" * 100_000)
        before = await s3.head_object(Bucket="journal-bucket", Key="a b/ä")
        server.kill()
        server.start()
        old = await s3.get_object(Bucket="journal-bucket", Key="a b/ä", VersionId=first["VersionId"])
        assert await old["Body"].read() == b"one"
        assert old["Metadata"] == {"k": "v"}
        new = await s3.get_object(Bucket="journal-bucket", Key="a b/ä")
        assert await new["Body"].read() == b"two"
        assert new["LastModified"] == before["LastModified"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        await s3.complete_multipart_upload(**where, MultipartUpload=parts)
        assert (await s3.head_object(Bucket="journal-bucket", Key="big"))["ContentLength"] == 100_000


async def test_a_presigned_upload_survives_sigkill(server: RunningServer) -> None:
    """A write whose signature has expired by the time of the replay is done again all the same."""
    import urllib.error
    import urllib.request

    def upload(url: str) -> bool:
        request = urllib.request.Request(url, b"presigned", method="PUT")
        try:
            urllib.request.urlopen(request, timeout=60).close()
        except urllib.error.HTTPError as error:
            error.close()
            assert error.code == 403
            return False
        return True

    async with _client("s3", server) as s3:
        await s3.create_bucket(Bucket="journal-bucket")
        # A signature lives from the second it was made in: a busy machine may be late for a short one.
        for lifetime in (1, 2, 4, 8, 16):
            expires = time.time() + lifetime
            where = {"Bucket": "journal-bucket", "Key": "k"}
            url = await s3.generate_presigned_url("put_object", Params=where, ExpiresIn=lifetime)
            if await asyncio.to_thread(upload, url):
                break
        else:
            pytest.fail("no signed upload was accepted")
        server.kill()
        await asyncio.sleep(max(0, expires + 1 - time.time()))
        assert time.time() > expires
        server.start()
        assert await (await s3.get_object(Bucket="journal-bucket", Key="k"))["Body"].read() == b"presigned"


async def test_with_a_key_only_those_who_know_it_are_answered(tmp_path: Path) -> None:
    """What was stored before there was a key is found with it, and nothing without."""
    import urllib.error
    import urllib.request

    def status(url: str, method: str = "GET") -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    where = {"Bucket": "journal-bucket", "Key": "k"}
    with aws_emulator(tmp_path) as server:
        async with _client("dynamodb", server) as dynamodb, _client("s3", server) as s3:
            await _make_table(dynamodb)
            await s3.create_bucket(Bucket="journal-bucket")
            await s3.put_object(**where, Body=b"old")
    with aws_emulator(tmp_path, key="secret") as server:
        for account in ("0" * 12, f"{'0' * 12}.secrets", f"{'0' * 12}.", f"{'0' * 12}.secret.wrong"):
            async with _client("dynamodb", server, account) as dynamodb:
                with pytest.raises(ClientError) as refused:
                    await dynamodb.list_tables()
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
            async with _client("s3", server, account) as s3:
                with pytest.raises(ClientError):
                    await s3.get_object(**where)
                url = await s3.generate_presigned_url("get_object", Params=where)
                assert await asyncio.to_thread(status, url) == 403
        for path in ("/journal-bucket/k", "/_ministack/reset", "/"):
            assert await asyncio.to_thread(status, server.url + path) == 403
        assert await asyncio.to_thread(status, f"{server.url}/_ministack/health") == 200
        known = f"{'0' * 12}.secret"
        async with _client("dynamodb", server, known) as dynamodb, _client("s3", server, known) as s3:
            assert (await dynamodb.list_tables())["TableNames"] == [_TABLE]
            assert await (await s3.get_object(**where))["Body"].read() == b"old"
            await dynamodb.put_item(TableName=_TABLE, Item={"id": {"S": "new"}})
        async with _client("dynamodb", server, "111111111111.secret") as other:
            assert (await other.list_tables())["TableNames"] == []
        server.kill()
        assert b".secret" not in b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())


async def test_an_expired_item_does_not_come_back(tmp_path: Path) -> None:
    """A conditional write that succeeded because an item had expired succeeds in the replay too."""
    spec = emulator_spec(tmp_path, free_port())
    process = ManagedProcess(replace(spec, argv=[*spec.argv, "--expire-seconds", "0.2"]))
    server = RunningServer(process, 0, f"http://127.0.0.1:{spec.argv[spec.argv.index('--port') + 1]}")
    server.start()
    try:
        async with _client("dynamodb", server) as dynamodb:
            await _make_table(dynamodb, ttl=True)
            first = {"id": {"S": "x"}, "expires_at": {"N": "1000"}}
            await dynamodb.put_item(TableName=_TABLE, Item=first)
            second = {"id": {"S": "x"}, "expires_at": {"N": "4000000000"}}
            async with asyncio.timeout(60):
                while (await dynamodb.get_item(TableName=_TABLE, Key={"id": {"S": "x"}})).get(
                    "Item"
                ) == first:
                    await asyncio.sleep(0.05)
            await dynamodb.put_item(
                TableName=_TABLE, Item=second, ConditionExpression="attribute_not_exists(id)"
            )
        server.kill()
        server.start()
        async with _client("dynamodb", server) as dynamodb:
            assert await _everything(dynamodb) == {"x": second}
        assert "replay:" not in server.log.read_text()
    finally:
        server.stop()


async def test_refused_writes_are_not_journaled(server: RunningServer, tmp_path: Path) -> None:
    """Conditions that fail, and reads, do not make the journal grow."""
    journal = tmp_path / "journal" / "journal-00000000"
    async with _client("dynamodb", server) as dynamodb:
        await _make_table(dynamodb)
        item = {
            "TableName": _TABLE,
            "Item": {"id": {"S": "x"}},
            "ConditionExpression": "attribute_not_exists(id)",
        }
        await dynamodb.put_item(**item)
        size = journal.stat().st_size
        for _ in range(3):
            with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
                await dynamodb.put_item(**item)
            await dynamodb.get_item(TableName=_TABLE, Key={"id": {"S": "x"}})
            await _everything(dynamodb)
        assert journal.stat().st_size == size


async def test_a_clean_stop_leaves_a_snapshot_and_an_empty_journal(
    server: RunningServer, tmp_path: Path
) -> None:
    """The next start does not repeat what happened since the beginning of time."""
    async with _client("dynamodb", server) as dynamodb:
        await _make_table(dynamodb)
    server.stop()
    files = {path.name: path.stat().st_size for path in (tmp_path / "journal").iterdir()}
    assert set(files) == {"snapshot-00000001", "journal-00000001"}
    assert files["journal-00000001"] == 0


async def test_nobody_can_wipe_a_durable_emulator(server: RunningServer) -> None:
    """The emulator's own reset, which would leave the journal behind, is refused."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{server.url}/_ministack/reset", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(urllib.request.urlopen, request, timeout=60)
    assert refused.value.code == 403
    refused.value.close()
