"""What each command asks of the server, and what it shows of the answer."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sdk_rest import RestPeer

from artcafe_agent import AgentKey
from artcafe_agent.cli import main
from artcafe_agent.cli.exits import Exit

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_settings")

AGENT = {
    "id": "greeter",
    "agent_id": "greeter",
    "tenant_id": "acme",
    "name": "Greeter",
    "status": "online",
    "type": "",
    "capabilities": ["greet", "wave"],
    "metadata": {"v": 1},
    "last_seen": None,
    "keys": [{"fingerprint": "SHA256:abc"}],
}


def test_agents_list_as_table_and_as_json(rest: RestPeer, capsys: Capture) -> None:
    """The same list for people and for programs."""
    rest.on("GET /agents?status=online&capability=greet&limit=100", {"agents": [AGENT], "next_token": None})
    arguments = ["agents", "list", "--status", "online", "--capability", "greet"]
    assert main(arguments) == Exit.OK
    assert capsys.readouterr().out.splitlines() == [
        "AGENT ID  NAME     STATUS  TYPE  CAPABILITIES  LAST SEEN",
        "greeter   Greeter  online  -     greet, wave   -",
    ]
    assert main([*arguments, "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == {"agents": [AGENT], "next_token": None}


def test_lists_follow_their_pages(rest: RestPeer, capsys: Capture) -> None:
    """As far as was asked for; that there is more is said."""
    pages = [[{"agent_id": f"a{page}{number}"} for number in range(2)] for page in range(3)]
    rest.on("GET /agents?limit=3", {"agents": pages[0], "next_token": "t+1"})
    rest.on("GET /agents?limit=1&next_token=t%2B1", {"agents": pages[1][:1], "next_token": "t2"})
    assert main(["agents", "list", "--limit", "3", "--json"]) == Exit.OK
    out, err = capsys.readouterr()
    assert [each["agent_id"] for each in json.loads(out)["agents"]] == ["a00", "a01", "a10"]
    assert json.loads(out)["next_token"] == "t2"
    assert "--all" in err
    rest.on("GET /agents?limit=100", {"agents": pages[0], "next_token": "t1"})
    rest.on("GET /agents?limit=100&next_token=t1", {"agents": pages[1], "next_token": "t2"})
    rest.on("GET /agents?limit=100&next_token=t2", {"agents": pages[2], "next_token": None})
    assert main(["agents", "list", "--all", "--json"]) == Exit.OK
    assert len(json.loads(capsys.readouterr().out)["agents"]) == 6


def test_empty_list(rest: RestPeer, capsys: Capture) -> None:
    """Nothing is said in words, and as an empty list."""
    rest.on("GET /channels?limit=100", {"channels": [], "next_token": None})
    assert main(["channels", "list"]) == Exit.OK
    assert capsys.readouterr().out == "no channels\n"


def test_agent_with_a_new_key(rest: RestPeer, capsys: Capture) -> None:
    """The private half is made and kept here; the public one is sent."""
    rest.on("POST /agents", {"agent": AGENT, "private_key": None, "success": True}, 201)
    arguments = ["agents", "create", "Greeter", "--id", "greeter", "--new-key", "greeter.key"]
    arguments += ["--capability", "greet", "--capability", "wave", "--metadata", '{"v": 1}', "--type", "bot"]
    assert main(arguments) == Exit.OK
    key = AgentKey.load("greeter.key")
    assert stat.S_IMODE(Path("greeter.key").stat().st_mode) == 0o600
    assert Path("greeter.key.pub").read_text() == key.public_key + "\n"
    assert rest.seen[0].body == {
        "name": "Greeter",
        "agent_id": "greeter",
        "type": "bot",
        "capabilities": ["greet", "wave"],
        "metadata": {"v": 1},
        "public_key": key.public_key,
    }
    out, err = capsys.readouterr()
    assert "PRIVATE" not in out
    assert "private key: greeter.key" in err
    # A second one must not replace the first, and is refused before the server hears of it.
    assert main(["agents", "create", "Other", "--new-key", "greeter.key"]) == Exit.USAGE
    assert len(rest.seen) == 1
    assert AgentKey.load("greeter.key").fingerprint == key.fingerprint


def test_agent_with_a_key_of_the_server(rest: RestPeer, capsys: Capture) -> None:
    """The private key goes to a file, or is shown once."""
    made = AgentKey.generate()
    private_key = made.private_bytes().decode()  # not the same bytes twice
    reply = {"agent": AGENT, "private_key": private_key, "success": True}
    rest.on("POST /agents", reply, 201)
    assert main(["agents", "create", "Greeter", "--save-key", "saved.key", "--json"]) == Exit.OK
    assert "PRIVATE" not in capsys.readouterr().out
    assert AgentKey.load("saved.key").fingerprint == made.fingerprint
    assert main(["agents", "create", "Greeter"]) == Exit.OK
    out, err = capsys.readouterr()
    assert private_key in out
    assert "shown once" in err


def test_keys_of_an_agent(rest: RestPeer, capsys: Capture) -> None:
    """Listing, adding and revoking by fingerprint, whose special characters survive."""
    Path("k.pub").write_text("ssh-ed25519 AAAA me\n")
    view = {"fingerprint": "SHA256:a+b/c", "type": "ssh-ed25519", "name": "", "created_at": "t"}
    rest.on("GET /agents/greeter/keys", {"keys": [view]})
    rest.on("POST /agents/greeter/keys", {"key": view, "private_key": None}, 201)
    rest.on("DELETE /agents/greeter/keys?fingerprint=SHA256%3Aa%2Bb%2Fc", status=204)
    assert main(["agents", "keys", "list", "greeter"]) == Exit.OK
    assert main(["agents", "keys", "add", "greeter", "--public-key", "k.pub", "--name", "second"]) == Exit.OK
    assert main(["agents", "keys", "revoke", "greeter", "SHA256:a+b/c"]) == Exit.OK
    assert rest.seen[1].body == {"public_key": "ssh-ed25519 AAAA me", "name": "second"}
    assert capsys.readouterr().out.count("SHA256:a+b/c") == 3


def test_channels_and_their_members(rest: RestPeer, capsys: Capture) -> None:
    """Each command is the request of the same name."""
    channel = {"id": "team", "channel_id": "team", "name": "Team", "access": "members"}
    rest.on("POST /channels", channel, 201)
    rest.on("DELETE /channels/team", status=204)
    rest.on(
        "GET /channels/team/members?limit=100", {"members": [{"agent_id": "greeter"}], "next_token": None}
    )
    rest.on("PUT /channels/team/members/greeter", {"agent_id": "greeter", "role": "subscriber"})
    rest.on("DELETE /channels/team/members/greeter", status=204)
    assert main(["channels", "create", "Team", "--id", "team", "--access", "members"]) == Exit.OK
    assert main(["channels", "members", "list", "team"]) == Exit.OK
    member = ["channels", "members", "add", "team", "greeter", "--role", "subscriber", "--auto-subscribe"]
    assert main(member) == Exit.OK
    assert main(["channels", "members", "remove", "team", "greeter"]) == Exit.OK
    assert main(["channels", "delete", "team", "--json"]) == Exit.OK
    assert rest.seen[0].body == {"name": "Team", "channel_id": "team", "access": "members"}
    assert rest.seen[2].body == {"role": "subscriber", "auto_subscribe": True}
    assert '{\n  "deleted": "team"\n}' in capsys.readouterr().out


def test_tenants_and_their_members(rest: RestPeer) -> None:
    """People are named by their subject, whatever it contains."""
    rest.on("POST /tenants", {"tenant_id": "acme", "limits": {"agents": None}}, 201)
    rest.on("POST /tenants/acme/members", {"user_id": "x|y/z"}, 201)
    rest.on("DELETE /tenants/acme/members/x%7Cy%2Fz", status=204)
    rest.on("DELETE /tenants/acme", status=204)
    assert main(["tenants", "create", "Acme", "--id", "acme", "--no-auto-create-channels"]) == Exit.OK
    assert main(["tenants", "members", "add", "x|y/z", "--role", "viewer", "--tenant", "acme"]) == Exit.OK
    assert main(["tenants", "members", "remove", "x|y/z", "--tenant", "acme"]) == Exit.OK
    assert main(["tenants", "delete", "acme", "--yes"]) == Exit.OK
    assert rest.seen[0].body == {"name": "Acme", "tenant_id": "acme", "auto_create_channels": False}
    assert rest.seen[1].body == {"user_id": "x|y/z", "role": "viewer"}


def test_members_of_the_tenant_that_is_named(rest: RestPeer, capsys: Capture) -> None:
    """Like `tenants get`: by its name, else by the option."""
    for tenant_id in ("acme", "other"):
        rest.on(f"GET /tenants/{tenant_id}/members?limit=100", {"members": [{"user_id": f"of-{tenant_id}"}]})
    assert main(["tenants", "members", "list", "acme", "--tenant", "other"]) == Exit.OK
    assert main(["tenants", "members", "list", "--tenant", "other"]) == Exit.OK
    out = capsys.readouterr().out
    assert out.index("of-acme") < out.index("of-other")


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["platform_admin", "owner"], Exit.OK),
        (["owner", "platform_admin", "viewer"], Exit.USAGE),
        (["platform_admin"], Exit.USAGE),
        ([], Exit.USAGE),
    ],
)
def test_only_tenant_is_found(rest: RestPeer, capsys: Capture, roles: list[str], expected: Exit) -> None:
    """Of those the person belongs to, on whichever page it is; else the error says what is needed."""
    rows = [{"tenant_id": f"t{number}", "role": role} for number, role in enumerate(roles)]
    rest.on("GET /tenants?limit=100", {"tenants": rows[:1], "next_token": "n" if rows[1:] else None})
    rest.on("GET /tenants?limit=100&next_token=n", {"tenants": rows[1:], "next_token": None})
    rest.on("GET /tenants/t1/members?limit=100", {"members": [{"user_id": "me"}]})
    rest.on("GET /tenants/t1", {"tenant_id": "t1"})
    assert main(["tenants", "members", "list"]) == expected
    assert main(["tenants", "get"]) == expected
    assert ("--tenant is needed" in capsys.readouterr().err) is (expected is Exit.USAGE)


@pytest.mark.parametrize(
    ("status", "word", "expected"), [(200, "up", Exit.OK), (503, "down", Exit.UNAVAILABLE)]
)
def test_status(rest: RestPeer, capsys: Capture, status: int, word: str, expected: Exit) -> None:
    """The health of the suite is shown also, and above all, when it is down."""
    services = {
        "auth": {"status": "up", "dependencies": [{"name": "nats", "status": "up"}]},
        "metering": {"status": word, "dependencies": [{"name": "valkey", "status": word}]},
    }
    rest.on("GET /health", {"status": word, "services": services}, status)
    assert main(["status"]) == expected
    out = capsys.readouterr().out
    assert f"is {word}" in out
    assert ("valkey" in out) is (word == "down")
    assert "authorization" not in rest.seen[0].headers


def test_usage(rest: RestPeer, capsys: Capture) -> None:
    """Figures as tables; times without any are left out for people, and kept for programs."""
    rest.on(
        "GET /usage/current",
        {"tenant_id": "acme", "plan": "free", "usage": {"messages": 5}, "today": {"messages": 2}},
    )
    quiet = {"start": "T1", "messages": 0, "groups": []}
    busy = {"start": "T2", "messages": 3, "groups": [{"agent_id": "a", "messages": 3}]}
    metrics = {
        "metrics": [quiet, busy],
        "totals": {"messages": 3, "groups": [{"agent_id": "a", "messages": 3}]},
    }
    rest.on("GET /usage/metrics?granularity=hour&group_by=agent", metrics)
    rest.on("GET /usage/metrics?start_date=2026-01-01", metrics)
    for arguments in (["usage"], ["usage", "current"]):
        assert main(arguments) == Exit.OK
        assert "this month  5" in capsys.readouterr().out
    assert main(["usage", "metrics", "--granularity", "hour", "--group-by", "agent"]) == Exit.OK
    assert capsys.readouterr().out.splitlines() == [
        "START  AGENT ID  MESSAGES",
        "T2     a         3",
        "total  a         3",
    ]
    assert main(["usage", "metrics", "--start", "2026-01-01"]) == Exit.OK
    assert capsys.readouterr().out.splitlines() == ["START  MESSAGES", "T2     3", "total  3"]
    assert main(["usage", "metrics", "--start", "2026-01-01", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == metrics
    nothing = {"metrics": [{"start": "T1", "messages": 0}], "totals": {"messages": 0, "groups": []}}
    rest.on("GET /usage/metrics?start_date=2026-02-01", nothing)
    rest.on("GET /usage/metrics?start_date=2026-02-01&group_by=agent", nothing)
    assert main(["usage", "metrics", "--start", "2026-02-01"]) == Exit.OK
    assert capsys.readouterr().out.splitlines() == ["START  MESSAGES", "total  0"]
    assert main(["usage", "metrics", "--start", "2026-02-01", "--group-by", "agent"]) == Exit.OK
    assert capsys.readouterr().out.splitlines() == ["START  AGENT ID  MESSAGES", "total  -         0"]


def test_usage_reconcile(rest: RestPeer, capsys: Capture) -> None:
    """A day that is different shows both figures, and is an exit code."""
    equal = {"date": "2026-01-01", "result": "equal", "checked_at": "T"}
    rest.on("GET /usage/reconciliation", {"days": [equal, {"date": "2026-01-02", "result": "not_compared"}]})
    assert main(["usage", "reconcile"]) == Exit.OK
    assert capsys.readouterr().out.splitlines()[1].split() == ["2026-01-01", "equal", "T", *"-----"]
    different = {"date": "2026-01-03", "result": "different", "checked_at": "T"}
    different |= {"counted": {"messages": 5}, "recounted": {"messages": 4}}  # type: ignore[dict-item]
    rest.on(
        "GET /usage/reconciliation?start_date=2026-01-01&end_date=2026-01-03", {"days": [equal, different]}
    )
    arguments = ["usage", "reconcile", "--start", "2026-01-01", "--end", "2026-01-03"]
    assert main(arguments) == Exit.FAILED
    lines = [line.split()[:4] for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [["2026-01-03", "counted", "T", "5"], ["2026-01-03", "recounted", "T", "4"]]


def test_usage_reconcile_names_agents_and_channels(rest: RestPeer, capsys: Capture) -> None:
    """What is different only in an agent or a channel is named, and what is not named is counted."""
    same = {"messages": 5}
    groups = [
        {"agent_id": "a1", "counted": {"messages": 1}, "recounted": {"messages": 2}},
        {"channel_id": "c1", "counted": {"messages": 3}, "recounted": {"messages": 4}},
    ]
    day = {"date": "2026-01-03", "result": "different", "checked_at": "T", "counted": same, "recounted": same}
    numbers = {"agents_different": 8, "channels_different": 1}
    rest.on("GET /usage/reconciliation", {"days": [{**day, **numbers, "groups": groups}]})
    assert main(["usage", "reconcile"]) == Exit.FAILED
    output = capsys.readouterr()
    assert output.err == "2026-01-03: and 7 more agents that are different\n"
    lines = [line.split() for line in output.out.splitlines()]
    assert lines[0][2:9] == ["CHECKED", "AT", "AGENT", "ID", "CHANNEL", "ID", "MESSAGES"]
    assert [[line[1], *line[3:6]] for line in lines[1:]] == [
        ["counted", "-", "-", "5"],
        ["recounted", "-", "-", "5"],
        ["counted", "a1", "-", "1"],
        ["recounted", "a1", "-", "2"],
        ["counted", "-", "c1", "3"],
        ["recounted", "-", "c1", "4"],
    ]


def test_keygen(capsys: Capture) -> None:
    """A pair that OpenSSH would have written, and never over another one."""
    assert main(["keygen", "k", "--comment", "me", "--json"]) == Exit.OK
    key = AgentKey.load("k")
    assert json.loads(capsys.readouterr().out) == {
        "private_key_path": "k",
        "public_key_path": "k.pub",
        "fingerprint": key.fingerprint,
        "public_key": f"{key.public_key} me",
    }
    assert stat.S_IMODE(Path("k").stat().st_mode) == 0o600
    assert main(["keygen", "k"]) == Exit.USAGE
    assert AgentKey.load("k").fingerprint == key.fingerprint
    assert main(["keygen", "k", "--force", "--type", "ecdsa-p256"]) == Exit.OK
    assert AgentKey.load("k").algorithm == "ecdsa-sha2-nistp256"
    assert main(["keygen", "k2", "--type", "rsa", "--bits", "1024"]) == Exit.USAGE
    assert main(["keygen", "no/such/folder/k"]) == Exit.USAGE
    Path("k3.pub").touch()
    assert main(["keygen", "k3"]) == Exit.USAGE
    assert not Path("k3").exists()


def test_reader_that_has_enough(rest: RestPeer, tmp_path: Path) -> None:
    """`artcafe ... | head` ends quietly."""
    rest.on("GET /agents?limit=100", {"agents": [{"agent_id": "a" * 1000}] * 5000, "next_token": None})
    command = f"{sys.executable} -W error -m artcafe_agent agents list --json | head -c 1"
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("{", "")
