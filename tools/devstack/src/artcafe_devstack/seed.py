"""A tenant to play with: a person who may sign in, and two agents with their keys."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from artcafe_devstack.process import StackError, inherited_environment
from artcafe_devstack.state import StateFolder

DEMO_AGENTS = ("barista", "painter")
_MARK = "seeded.json"
_TIMEOUT_SECONDS = 60
_CONFLICT = 409


def seed(
    state: StateFolder,
    *,
    base_url: str,
    tenant_id: str,
    email: str,
    password: str,
    auth_env: Mapping[str, str],
    registry_env: Mapping[str, str],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Make what is missing of the demo and return what a client needs to use it.

    Raises:
        StackError: a step failed; the next start tries again.
    """
    keys = {agent_id: state.of("agents") / agent_id for agent_id in DEMO_AGENTS}
    if state.read(_MARK) != {"tenant_id": tenant_id, "email": email} or not all(
        k.exists() for k in keys.values()
    ):
        report("making the demo tenant: a person to sign in, two agents")
        user = _run("auth", ["add-user", "--email", email, "--password-stdin"], auth_env, password)
        bootstrap = ["bootstrap", "--tenant-id", tenant_id, "--tenant-name", "Demo", "--plan", "pro"]
        bootstrap += ["--owner-user-id", _user_id(user), "--owner-email", email]
        bootstrap += ["--platform-admin", "--auto-create-channels"]
        _run("registry", bootstrap, registry_env, "")
        token = _sign_in(base_url, email, password)
        for agent_id, key in keys.items():
            _make_agent(base_url, tenant_id, token, agent_id, key)
        state.write(_MARK, {"tenant_id": tenant_id, "email": email})
    return {
        "base_url": base_url,
        "tenant_id": tenant_id,
        "email": email,
        "password": password,
        "agents": [{"agent_id": agent_id, "private_key_path": str(key)} for agent_id, key in keys.items()],
    }


def _run(service: str, arguments: list[str], env: Mapping[str, str], text: str) -> str:
    """Run a command of a service, as an operator would, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", f"artcafe_{service}", *arguments],
        env={**inherited_environment(), **env},
        input=text + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
        start_new_session=True,  # a Ctrl-C is for the launcher, which stops when this is done
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise StackError(f"`python -m artcafe_{service} {arguments[0]}` failed: {' | '.join(words)}")
    return done.stdout


def _user_id(output: str) -> str:
    for line in output.splitlines():
        if line.startswith("{"):
            return str(json.loads(line)["user_id"])
    raise StackError("auth did not tell the id of the demo user")


def _sign_in(base_url: str, email: str, password: str) -> str:
    answer = _post(f"{base_url}/api/v1/auth/login", {"email": email, "password": password}, {})
    return str(answer["access_token"])


def _make_agent(base_url: str, tenant_id: str, token: str, agent_id: str, key: Path) -> None:
    """Register an agent with the key in a file, which is made if missing."""
    public_key = _public_key(key)
    headers = {"Authorization": f"Bearer {token}", "X-Tenant-Id": tenant_id}
    agents = f"{base_url}/api/v1/agents"
    try:
        _post(agents, {"agent_id": agent_id, "name": agent_id.title(), "public_key": public_key}, headers)
    except urllib.error.HTTPError as error:
        if error.code != _CONFLICT:
            raise StackError(f"registering the agent {agent_id} was answered {error.code}") from error
        # It is there from an earlier start; its key may be the one of a file that was removed since.
        try:
            _post(f"{agents}/{agent_id}/keys", {"public_key": public_key}, headers)
        except urllib.error.HTTPError as second:
            if second.code != _CONFLICT:
                raise StackError(f"adding a key to {agent_id} was answered {second.code}") from second


def _public_key(path: Path) -> str:
    """Return the OpenSSH one-liner of the Ed25519 key in a file; a new key is readable by the owner only."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if path.exists():
        private = serialization.load_ssh_private_key(path.read_bytes(), None)
    else:
        private = Ed25519PrivateKey.generate()
        encoded = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(encoded)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode()


def _post(url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError:
        raise
    except OSError as error:
        raise StackError(f"{url} does not answer: {error}") from error
