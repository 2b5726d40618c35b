"""Logging in, and where tokens are kept."""

from __future__ import annotations

import io
import stat
import sys
import time
from pathlib import Path

import pytest
from sdk_rest import RestPeer

from artcafe_agent.cli import main
from artcafe_agent.cli.exits import Exit, NotLoggedIn
from artcafe_agent.cli.tokens import Login, LoginStore, config_dir

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


def test_login_keeps_the_token_for_its_owner_only(
    rest: RestPeer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is 0600 in a folder of 0700; the token is used from then on and never shown."""
    monkeypatch.delenv("ARTCAFE_TOKEN")
    rest.on("POST /auth/login", {"access_token": "secret-token", "token_type": "Bearer", "expires_in": 3600})
    rest.on("GET /agents/greeter", AGENT)
    monkeypatch.setattr(sys, "stdin", io.StringIO("pass word\n"))
    assert main(["login", "--email", "me@example.com", "--password-stdin"]) == Exit.OK
    assert rest.seen[0].body == {"email": "me@example.com", "password": "pass word"}
    assert "authorization" not in rest.seen[0].headers
    file = Path("config/logins.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert main(["agents", "get", "greeter", "--tenant", "acme"]) == Exit.OK
    assert rest.seen[1].headers["authorization"] == "Bearer secret-token"
    assert rest.seen[1].headers["x-tenant-id"] == "acme"
    assert main(["logout"]) == Exit.OK
    assert main(["agents", "get", "greeter"]) == Exit.NOT_AUTHENTICATED
    out, err = capsys.readouterr()
    assert "secret-token" not in out + err
    assert "run `artcafe login" in err


def test_refused_login(rest: RestPeer, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password keeps nothing."""
    problem = {
        "status": 401,
        "code": "unauthenticated",
        "detail": "e-mail or password is wrong",
        "instance": "r1",
    }
    rest.on("POST /auth/login", problem, 401)
    monkeypatch.setattr(sys, "stdin", io.StringIO("wrong\n"))
    assert main(["login", "--email", "me@example.com", "--password-stdin"]) == Exit.NOT_AUTHENTICATED
    assert capsys.readouterr().err == ("artcafe: unauthenticated: e-mail or password is wrong [request r1]\n")
    assert not Path("config").exists()


def test_token_that_is_not_accepted_any_more(
    rest: RestPeer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a new start of the server from nothing: the command to log in again is there to be copied."""
    monkeypatch.delenv("ARTCAFE_TOKEN")
    LoginStore(Path("config")).put(rest.url, Login(token="old", email="me@example.com"))
    problem = {"status": 401, "code": "unauthenticated", "detail": "the token is not valid", "instance": "r1"}
    rest.on("GET /agents?limit=100", problem, 401)
    assert main(["agents", "list"]) == Exit.NOT_AUTHENTICATED
    assert capsys.readouterr().err == (
        "artcafe: unauthenticated: the token is not valid [request r1]: "
        f"run `artcafe login --server {rest.url} --email me@example.com`\n"
    )


def test_logins_are_kept_by_server(tmp_path: Path) -> None:
    """Each server has its own, and an expired one says so."""
    store = LoginStore(tmp_path / "here")
    store.put("http://a", Login(token="1"))
    store.put("http://b", Login(token="2", expires_at=time.time() + 60))
    store.put("http://c", Login(token="3", expires_at=time.time() - 1))
    store = LoginStore(tmp_path / "here")
    assert (store.token("http://a"), store.token("http://b")) == ("1", "2")
    with pytest.raises(NotLoggedIn, match="has expired"):
        store.token("http://c")
    assert store.remove("http://b")
    assert not store.remove("http://b")
    with pytest.raises(NotLoggedIn, match="not logged in at http://b"):
        store.token("http://b")
    assert [each.name for each in (tmp_path / "here").iterdir()] == ["logins.json"]


def test_config_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The own variable, then XDG's where it is absolute, then the home."""
    assert config_dir() == tmp_path / "config"
    monkeypatch.delenv("ARTCAFE_CONFIG_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert config_dir() == tmp_path / "xdg" / "artcafe"
    for useless in ("relative", ""):
        monkeypatch.setenv("XDG_CONFIG_HOME", useless)
        assert config_dir() == tmp_path / ".config" / "artcafe"


def test_damaged_login_file_is_named(capsys: Capture) -> None:
    """It is not overwritten, and the error says which file."""
    Path("config").mkdir()
    Path("config/logins.json").write_text("{")
    assert main(["agents", "list"]) == Exit.USAGE
    assert "logins.json cannot be read" in capsys.readouterr().err
