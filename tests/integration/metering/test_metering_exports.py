"""Exports of the running service: rows, manifests, objects, and what the command line makes of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aioboto3
import httpx
import pytest

from artcafe_agent.cli import main
from artcafe_agent.cli.exits import Exit
from artcafe_common.contracts.metering import UsageRow
from artcafe_devstack.servers import AwsEndpoint


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
    assert [line.split(",", 2)[2] for line in whole[1:]] == ["open,0,,3,0,30,0,3,0"]
    answer = await exporting.get("/export", headers, format="jsonl", group_by="agent")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [(row["agent_id"], row["messages"], row["api_calls"]) for row in rows] == [
        ("a1", 1, 0),
        ("a2", 2, 0),
        ("", 0, 3),
    ]
    export_id = answer.headers["artcafe-export-id"]
    assert (await exporting.get(f"/exports/{export_id}", headers)).json()["export_id"] == export_id
    assert (tmp_path / "signing.pem").stat().st_mode & 0o777 == 0o600


async def test_exports_are_for_those_who_may_read_usage(exporting: Any, world: Any) -> None:
    """A member cannot export, nobody reads another tenant's manifest, and anyone may have the public key."""
    answer = await exporting.get("/export", world.person("ann", t1="billing"))
    export_id = answer.headers["artcafe-export-id"]
    assert (await exporting.get("/export", world.person("bob", t1="member"))).status_code == 403
    other = world.person("eve", t2="owner")
    assert (await exporting.get(f"/exports/{export_id}", other)).status_code == 404
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
        answer = await exporting.get("/export", headers, format=("csv", "jsonl")[number % 2])
        path = tmp_path / f"export-{number}"
        path.write_bytes(answer.content)
        export_id = answer.headers["artcafe-export-id"]
        signed = (await exporting.get(f"/exports/{export_id}", headers)).json()["manifest"]
        path.with_name(f"{path.name}.jws").write_text(signed)
        async with aioboto3.Session(aws.access_key_id, "test").client(
            "s3", endpoint_url=aws.url, region_name=aws.region
        ) as s3:
            key = f"exports/t1/{export_id}.{('csv', 'jsonl')[number % 2]}"
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
    Path(files[2]).write_bytes(Path(files[2]).read_bytes().replace(b"30", b"40"))
    assert await asyncio.to_thread(main, arguments) == Exit.FAILED
    assert "was changed" in capsys.readouterr().out


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
    assert await asyncio.to_thread(main, [*base, "verify", str(out)]) == Exit.OK
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
