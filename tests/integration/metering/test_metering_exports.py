"""Exports of the running service: rows, manifests, objects, and what the command line makes of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import aioboto3
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artcafe_agent.cli import main
from artcafe_agent.cli.exits import Exit
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.dynamo import Dynamo
from artcafe_devstack.servers import AwsEndpoint
from artcafe_metering.exports import EXPORTS_AT_ONCE
from artcafe_metering.manifests import Manifests
from artcafe_metering.rolled import USAGE_METRICS
from artcafe_metering.signing import Signer


@pytest.fixture
async def exporting(
    service_of: Any, world: Any, sender: Any, store: Any, until: Any, tmp_path: Path, aws: AwsEndpoint
) -> Any:
    """Run the service with a bucket and usage of two agents."""
    bucket = f"exports-{aws.access_key_id}"
    service = await service_of(
        METERING_SIGNING_KEY_FILE=str(tmp_path / "signing.pem"), METERING_EXPORT_BUCKET=bucket
    )
    service.bucket = bucket
    world.tenant("t1")
    world.tenant("t2")
    rows = [UsageRow("t1", f"a{n}", "c1", messages=n, bytes_in=10 * n) for n in (1, 2)]
    await sender.batch("s1", 1, *rows, UsageRow("t1", api_calls=3), UsageRow("t2", messages=9))
    await until(lambda: store.messages("t1"), 3)

    async def tables() -> bool:
        async with aioboto3.Session(aws.access_key_id, "test").client(
            "s3", endpoint_url=aws.url, region_name=aws.region
        ) as s3:
            return bucket in [each["Name"] for each in (await s3.list_buckets())["Buckets"]]

    await until(tables)
    return service


async def test_an_export_has_every_figure_once_and_a_signed_manifest(
    exporting: Any, world: Any, tmp_path: Path
) -> None:
    """Grouped or not the rows add up to the same; what no agent had a part in has a row of its own."""
    headers = world.person("ann", t1="owner")
    whole = (await exporting.get("/export", headers)).text.splitlines()
    assert whole[0].startswith("tenant_id,date,record,number,recorded_at,messages,deliveries")
    (line,) = whole[1:]
    *figures, calls, _ = line.split(",")[2:]
    assert figures == ["open", "0", "", "3", "0", "30", "0"]
    answer = await exporting.get("/export", headers, format="jsonl", group_by="agent")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [(row["agent_id"], row["messages"]) for row in rows] == [("a1", 1), ("a2", 2), ("", 0)]
    # What is asked here is counted, too, within a second or so.
    assert [row["api_calls"] for row in rows[:2]] == [0, 0]
    assert 3 <= int(calls) <= rows[2]["api_calls"] <= 5
    export_id = answer.headers["artcafe-export-id"]
    assert (await exporting.get(f"/exports/{export_id}", headers)).json()["export_id"] == export_id
    assert (tmp_path / "signing.pem").stat().st_mode & 0o777 == 0o600


async def test_the_description_of_an_export_is_true(exporting: Any, world: Any) -> None:
    """The OpenAPI document names the media types and headers that exports have, and no other answer."""
    document = (await exporting.get("/openapi.json")).json()
    described = document["paths"]["/api/v1/usage/export"]["get"]["responses"]
    assert "204" not in described
    seen = set()
    for form in ("csv", "jsonl", "parquet"):
        answer = await exporting.get("/export", world.person("ann", t1="owner"), format=form)
        seen.add(answer.headers["content-type"].partition(";")[0])
        assert all(name.lower() in answer.headers for name in described["200"]["headers"])
    assert "Artcafe-Export-Id" in described["200"]["headers"]
    assert set(described["200"]["content"]) == seen


async def test_exports_are_for_those_who_may_read_usage(exporting: Any, world: Any) -> None:
    """A member cannot export, nobody reads another tenant's manifest, and anyone may have the public key."""
    answer = await exporting.get("/export", world.person("ann", t1="billing"))
    export_id = answer.headers["artcafe-export-id"]
    assert (await exporting.get("/export", world.person("bob", t1="member"))).status_code == 403
    other = world.person("eve", t2="owner")
    for name in (export_id, "x" * 2000, "%00", "a%23b", "t1%2Fx"):
        assert (await exporting.get(f"/exports/{name}", other)).status_code == 404
    assert (await exporting.get("/export", other, tenant_id="t1")).status_code == 403
    assert (await exporting.get("/export")).status_code == 401
    (key,) = (await exporting.get("/export/keys.json")).json()["keys"]
    assert (key["crv"], "d" in key) == ("Ed25519", False)


async def test_exports_at_once_make_one_chain_and_are_kept(
    exporting: Any, world: Any, aws: AwsEndpoint, tmp_path: Path, capsys: Any
) -> None:
    """Many exports at the same time are numbered without a gap, linked, in the bucket, and verify."""
    headers = world.person("ann", t1="owner")

    async def one(number: int) -> str:
        form = ("csv", "jsonl", "parquet")[number % 3]
        answer = await exporting.get("/export", headers, format=form)
        path = tmp_path / f"export-{number}"
        path.write_bytes(answer.content)
        export_id = answer.headers["artcafe-export-id"]
        signed = (await exporting.get(f"/exports/{export_id}", headers)).json()["manifest"]
        path.with_name(f"{path.name}.jws").write_text(signed)
        async with aioboto3.Session(aws.access_key_id, "test").client(
            "s3", endpoint_url=aws.url, region_name=aws.region
        ) as s3:
            key = f"exports/t1/{export_id}.{form}"
            kept = await s3.get_object(Bucket=exporting.bucket, Key=key)
            assert await kept["Body"].read() == answer.content
            beside = await s3.get_object(Bucket=exporting.bucket, Key=f"{key}.jws")
            assert (await beside["Body"].read()).decode() == signed
        return str(path)

    files = await asyncio.gather(*(one(number) for number in range(6)))
    server = str(exporting.client.base_url)
    arguments = ["--server", server, "--json", "usage", "verify", *files]
    assert await asyncio.to_thread(main, arguments) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert sorted(each["number"] for each in told["files"]) == [1, 2, 3, 4, 5, 6]
    assert told["gaps"] == []
    Path(files[3]).write_bytes(Path(files[3]).read_bytes().replace(b"30", b"40"))
    assert await asyncio.to_thread(main, arguments) == Exit.FAILED
    assert "was changed" in capsys.readouterr().out


async def test_exports_of_all_replicas_that_end_at_once_get_a_number_each(
    aws_environment: AwsEndpoint,
) -> None:
    """As many as three replicas have of a tenant: none is broken off for the others."""
    signer, number = Signer(Ed25519PrivateKey.generate()), 3 * EXPORTS_AT_ONCE
    url, region = aws_environment.url, aws_environment.region
    async with Dynamo.connect(region=region, endpoint_url=url, prefix="artcafe-") as dynamo:
        await dynamo.create_tables([USAGE_METRICS])
        replicas = [Manifests(dynamo, signer) for _ in range(3)]
        appending = [replicas[each % 3].append("t1", f"e{each}", {}) for each in range(number)]
        signed = await asyncio.gather(*appending)
        chain = await replicas[0].before("t1", None, 2 * number)
    assert [link.number for link in chain] == list(range(number, 0, -1))
    assert {link.signed for link in chain} == set(signed)


async def test_the_command_line_exports_and_verifies(
    exporting: Any, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`artcafe usage export` leaves a file and a manifest that `artcafe usage verify` finds genuine."""
    server = str(exporting.client.base_url).rstrip("/")
    token = world.person("ann", t1="owner")["Authorization"].removeprefix("Bearer ")
    monkeypatch.setenv("ARTCAFE_TOKEN", token)
    out = tmp_path / "usage.csv"
    base = ["--server", server, "--tenant", "t1", "usage"]
    arguments = [*base, "export", "--group-by", "agent", "--out", str(out)]
    assert await asyncio.to_thread(main, arguments) == Exit.OK
    assert await asyncio.to_thread(main, arguments) == Exit.USAGE
    parquet = tmp_path / "usage.parquet"
    arguments = [*base, "export", "--group-by", "agent", "--format", "parquet", "--out", str(parquet)]
    assert await asyncio.to_thread(main, arguments) == Exit.OK
    assert await asyncio.to_thread(main, [*base, "verify", str(out), str(parquet)]) == Exit.OK
    capsys.readouterr()


async def test_with_a_store_away_there_is_no_half_export(
    service_of: Any, world: Any, valkey: Any, tmp_path: Path
) -> None:
    """An export whose figures cannot be had is an error, not an empty file."""
    service = await service_of(METERING_SIGNING_KEY_FILE=str(tmp_path / "signing.pem"))
    world.tenant("t1")
    valkey.kill()
    answer = await service.get("/export", world.person("ann", t1="owner"))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_an_export_whose_manifest_cannot_be_kept_breaks_off(
    exporting: Any, world: Any, aws: AwsEndpoint
) -> None:
    """Without its bucket an export never ends as if it were whole."""
    async with aioboto3.Session(aws.access_key_id, "test").client(
        "s3", endpoint_url=aws.url, region_name=aws.region
    ) as s3:
        await s3.delete_bucket(Bucket=exporting.bucket)
    with pytest.raises(httpx.RemoteProtocolError):
        await exporting.get("/export", world.person("ann", t1="owner"))


async def test_a_key_that_is_none_stops_the_start(service_of: Any, tmp_path: Path) -> None:
    """A signing key that cannot be used ends the process with one line that names the setting."""
    service = await service_of()
    await asyncio.to_thread(service.stop)
    (tmp_path / "bad.pem").write_text("no key")
    name = "METERING_SIGNING_KEY_FILE"
    assert await asyncio.to_thread(service.fails, name, str(tmp_path / "bad.pem")) == 2
    assert f"{name} is no use" in service.log()


async def test_the_list_of_exports_is_the_chain(exporting: Any, world: Any) -> None:
    """Newest first, page by page down to the first, each linked to the one before; the head is the newest."""
    headers = world.person("ann", t1="owner", t2="owner")
    own, other = headers | {"X-Tenant-Id": "t1"}, headers | {"X-Tenant-Id": "t2"}
    empty = (await exporting.get("/exports", own)).json()
    assert empty == {"tenant_id": "t1", "head": None, "exports": [], "next_token": None}
    ids = [(await exporting.get("/export", own)).headers["artcafe-export-id"] for _ in range(5)]
    first = (await exporting.get("/exports", own, limit="2")).json()
    # What is made meanwhile does not move the pages.
    await exporting.get("/export", own)
    found, token = first["exports"], first["next_token"]
    while token is not None:
        assert (await exporting.get("/exports", other, next_token=token)).status_code == 400
        page = (await exporting.get("/exports", own, limit="2", next_token=token)).json()
        assert page["head"]["number"] == 6
        found, token = found + page["exports"], page["next_token"]
    assert [each["number"] for each in found] == [5, 4, 3, 2, 1]
    assert [each["export_id"] for each in found] == ids[::-1]
    hashes = [hashlib.sha256(each["manifest"].encode()).hexdigest() for each in found]
    assert first["head"] == {"number": 5, "sha256": hashes[0]}
    assert [each["previous_sha256"] for each in found] == [*hashes[1:], None]
    assert (await exporting.get("/exports", world.person("bob", t1="member"))).status_code == 403
    root = world.person("root", "platform_admin")
    assert (await exporting.get("/exports", root, tenant_id="never")).status_code == 404


async def test_the_command_line_follows_the_chain(
    exporting: Any,
    world: Any,
    aws: AwsEndpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """`verify --chain` needs no files; a link that is gone from the table, or the last of all, is noticed."""
    monkeypatch.setenv("ARTCAFE_TOKEN", world.person("ann", t1="owner")["Authorization"].split()[1])
    base = ["--server", str(exporting.client.base_url).rstrip("/"), "--tenant", "t1", "usage"]
    files = [str(tmp_path / f"{number}.csv") for number in range(4)]
    for file in files:
        assert await asyncio.to_thread(main, [*base, "export", "--out", file]) == Exit.OK
    assert await asyncio.to_thread(main, [*base, "verify", "--chain"]) == Exit.OK
    assert await asyncio.to_thread(main, [*base, "verify", "--chain", files[1]]) == Exit.OK
    assert "chain of t1: whole, from manifest 1 to its head 4" in capsys.readouterr().out
    assert await asyncio.to_thread(main, [*base, "exports"]) == Exit.OK
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["4", "3", "2", "1"]

    async def take_out(number: int) -> None:
        async with aioboto3.Session(aws.access_key_id, "test").client(
            "dynamodb", endpoint_url=aws.url, region_name=aws.region
        ) as dynamo:
            (table,) = [
                each for each in (await dynamo.list_tables())["TableNames"] if "usage-metrics" in each
            ]
            key = {"scope": {"S": "t1#manifest"}, "item": {"S": f"{number:010d}"}}
            await dynamo.delete_item(TableName=table, Key=key)

    await take_out(4)
    assert await asyncio.to_thread(main, [*base, "verify", "--chain", files[3]]) == Exit.FAILED
    assert "the chain ends with 3, before this manifest" in capsys.readouterr().out
    await take_out(2)
    assert await asyncio.to_thread(main, [*base, "verify", "--chain"]) == Exit.FAILED
    assert "WARNING: manifest 2 of t1" in capsys.readouterr().err


async def test_former_keys_are_told_beside_the_one_in_use(service_of: Any, tmp_path: Path) -> None:
    """Who checks an old manifest finds its key; a folder with something else in it stops the start."""
    name, folder = "METERING_RETIRED_KEYS", tmp_path / "retired"
    folder.mkdir()
    old = {"keys": [Signer.from_file(tmp_path / "old.pem").jwk]}
    (folder / "old.json").write_text(json.dumps(old))
    service = await service_of(
        METERING_SIGNING_KEY_FILE=str(tmp_path / "signing.pem"), METERING_RETIRED_KEYS=str(folder)
    )
    keys = (await service.get("/export/keys.json")).json()["keys"]
    assert keys == [Signer.from_file(tmp_path / "signing.pem").jwk, *old["keys"]]
    await asyncio.to_thread(service.stop)
    (folder / "bad.json").write_text("no keys")
    assert await asyncio.to_thread(service.fails, name, str(folder)) == 2
    assert f"{name} is no use: {folder}/bad.json" in service.log()
    assert await asyncio.to_thread(service.fails, name, str(tmp_path / "missing")) == 2
    assert f"{name} is no use: {tmp_path}/missing: No such file" in service.log()


async def test_exports_have_a_rate_of_their_own(world: Any, service_of: Any, tmp_path: Path) -> None:
    """A tenant may ask for so many exports an hour, whatever its plan says of calls."""
    service = await service_of(
        METERING_SIGNING_KEY_FILE=str(tmp_path / "signing.pem"), METERING_EXPORTS_PER_HOUR="2"
    )
    world.tenant("t1")
    headers = world.person("ann", t1="owner")
    answers = [await service.get("/export", headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert 60 < int(answers[-1].headers["retry-after"]) <= 1800
    assert "artcafe-export-id" not in answers[-1].headers
    assert (await service.get("/current", headers)).status_code == 200
