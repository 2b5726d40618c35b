"""What the browser tests share: a tab that minds its console, people, and how pages are waited for."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import jwt
from playwright.async_api import ConsoleMessage, Locator, Page, WebSocket, expect
from playwright.async_api import Error as PlaywrightError
from websockets.asyncio.client import ClientConnection, connect

from artcafe_agent import Client
from artcafe_agent.keys import AgentKey

ARTIFACTS = Path(__file__).parent / "artifacts"
# Nothing that Chromium does for itself belongs into a test.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOADING_TRIES = 5
# Nothing of how fast a page is: health is asked for every 20 seconds, and a machine may be busy.
PATIENCE_SECONDS = 30.0
# Chromium takes a change of the machine's networks for a failure of what it is loading.
_NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
# Health is asked with limits of a second or two: of a machine that stood still it says 503 once.
_UNWELL = re.compile(r"error: Failed to load resource: .* status of 503 .*/api/v1/health")


class LocalIssuer:
    """Makes tokens as the local issuer does: like one of its own, signed with its key."""

    def __init__(self, token: str, key: bytes) -> None:
        self._claims = jwt.decode(token, options={"verify_signature": False})
        self._headers = {"kid": jwt.get_unverified_header(token)["kid"]}
        self._key = key

    def token(self, seconds: int = 3600, **claims: str) -> str:
        """Return a token that holds for so long."""
        now = int(time.time())
        return jwt.encode(
            {**self._claims, **claims, "iat": now, "exp": now + seconds}, self._key, "ES256", self._headers
        )


@dataclass
class Account:
    """Somebody who is signed in; with a `password` they can do so at the form."""

    user_id: str
    email: str
    password: str
    token: str
    api: httpx.AsyncClient

    async def call(self, method: str, path: str, tenant_id: str | None = None, **options: Any) -> Any:
        """Send one REST request as this person and return its JSON."""
        headers = {"Authorization": f"Bearer {self.token}"}
        if tenant_id is not None:
            headers["X-Tenant-Id"] = tenant_id
        answer = await self.api.request(method, path, headers=headers, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None


@dataclass
class Organisation:
    """An organisation and its owner."""

    tenant_id: str
    owner: Account

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """Send one REST request as the owner and return its JSON."""
        return await self.owner.call(method, path, self.tenant_id, **options)

    async def add(self, person: Account, role: str) -> None:
        """Let somebody belong to it."""
        body = {"user_id": person.user_id, "role": role, "email": person.email}
        await self.call("POST", f"/tenants/{self.tenant_id}/members", json=body)

    async def create_agent(self, agent_id: str) -> AgentKey:
        """Register an agent and return its key."""
        key = AgentKey.generate("ed25519")
        body = {"agent_id": agent_id, "name": agent_id.title(), "public_key": key.public_key}
        await self.call("POST", "/agents", json=body)
        return key

    def connect(self, agent_id: str, key: AgentKey, base_url: str) -> Client:
        """Return an agent's client, to be entered."""
        return Client(base_url=base_url, tenant_id=self.tenant_id, agent_id=agent_id, private_key=key)

    async def open_socket(self, agent_id: str, key: AgentKey, base_url: str) -> ClientConnection:
        """Connect as an agent without the SDK, for a test that breaks the connection."""
        agent = {"tenant_id": self.tenant_id, "agent_id": agent_id}
        challenge = (await self.call("POST", "/auth/agent/challenge", json=agent))["challenge"]
        query = urlencode({"challenge": challenge, "signature": key.sign(challenge)})
        socket = await connect(f"{base_url.replace('http', 'ws')}/ws/agent/{agent_id}?{query}")
        await socket.recv()
        return socket


async def found_organisation(owner: Account) -> Organisation:
    """Make an organisation without agents."""
    tenant_id = f"org-{secrets.token_hex(4)}"
    await owner.call("POST", "/tenants", json={"name": "Browser test", "tenant_id": tenant_id})
    return Organisation(tenant_id, owner)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.05)


def _told(*what: object) -> None:
    """Say what a page did: shown with a test that fails."""
    print(f"{time.monotonic():.2f}", *what)


class Tab:
    """One page of the dashboard.

    `problems` are errors in its console, but for those that are `expected`; `addresses` all it asked for.
    """

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.problems: list[str] = []
        self.expected: list[str] = [_NETWORK_CHANGED]
        self.addresses: list[str] = []
        page.on("request", lambda request: self.addresses.append(request.url))
        page.on("websocket", self._on_socket)
        page.on("framenavigated", lambda frame: _told("at", frame.url))
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"{error.name}: {error.message}"))

    def _on_socket(self, socket: WebSocket) -> None:
        self.addresses.append(socket.url)
        _told("opens", socket.url)
        socket.on("close", lambda _: _told("closed", socket.url))

    def _on_console(self, message: ConsoleMessage) -> None:
        _told("console", message.type, message.text)
        if message.type not in ("error", "warning") or any(text in message.text for text in self.expected):
            return
        problem = f"{message.type}: {message.text} {message.location['url']}"
        if not _UNWELL.fullmatch(problem):
            self.problems.append(problem)

    def expect_gone(self) -> None:
        """Let the browser say 404 of something that is being deleted while the page asks for it."""
        self.expected.append("the server responded with a status of 404")

    def frames(self) -> list[dict[str, Any]]:
        """Return a list that gets every frame the server sends over sockets that are opened from now on."""
        heard: list[dict[str, Any]] = []

        def listen(socket: WebSocket) -> None:
            socket.on("framereceived", lambda text: heard.append(json.loads(text)))

        self.page.on("websocket", listen)
        return heard

    async def load(self) -> None:
        """Load the dashboard, until its scripts run."""
        await self._loaded(self.page.goto, f"{self.base_url}/")

    async def reload(self) -> None:
        """Load the page again that is shown."""
        await self._loaded(self.page.reload)

    async def _loaded(self, begin: Callable[..., Awaitable[object]], *arguments: str) -> None:
        for tries in range(LOADING_TRIES):
            try:
                await begin(*arguments, wait_until="load", timeout=20_000)
                await self.page.locator("#app > :not(.blank)").first.wait_for(timeout=15_000)
                return
            except PlaywrightError:
                if tries == LOADING_TRIES - 1:
                    raise

    async def sign_in(self, account: Account, password: str | None = None) -> None:
        """Load the dashboard and sign in with e-mail and password."""
        await self.load()
        await self.page.get_by_label("E-mail").fill(account.email)
        await self.page.get_by_label("Password").fill(password or account.password)
        await self.page.get_by_role("button", name="Sign in", exact=True).last.click()

    async def enter(self, account: Account, page: str | None = "Overview") -> None:
        """Come as a person of one organisation who has signed in before, in this tab, and wait for a page.

        Somebody of none comes to none.
        """
        state = {"token": account.token, "email": account.email, "userId": account.user_id}
        await self.page.add_init_script(
            f"location.origin !== 'null' && (sessionStorage['artcafe.session'] ??= "
            f"{json.dumps(json.dumps(state))})"
        )
        await self.load()
        if page is not None:
            await self.heading(page)
            await self.live()

    async def live(self, timeout: float = 30_000) -> None:
        """Wait until the connection is there (milliseconds)."""
        await self.page.locator(".pill.live").wait_for(timeout=timeout)

    async def loaded(self) -> None:
        """Wait until nothing on the page says that it is still loading."""
        await expect(self.page.locator("main").get_by_text("Loading…")).to_have_count(0)

    async def open(self, path: str, heading: str | None = None) -> None:
        """Go to a page by its address, as a link does."""
        await self.page.evaluate("path => { location.hash = path }", path)
        if heading is not None:
            await self.heading(heading)

    async def heading(self, text: str) -> None:
        """Wait for the heading of a page."""
        await self.page.get_by_role("heading", name=text, level=1).wait_for()

    async def sees(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a text can be seen."""
        await self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=seconds * 1000)

    async def texts_of(self, locator: Locator) -> Callable[[], Awaitable[list[str]]]:
        """Return a function that returns every text that something has had since now, however short."""
        noted = await locator.evaluate_handle(
            """element => {
                const texts = [element.textContent];
                const note = () => texts.push(element.textContent);
                const all = {childList: true, characterData: true, subtree: true};
                new MutationObserver(note).observe(element, all);
                return texts;
            }"""
        )

        async def texts() -> list[str]:
            found: list[str] = await noted.json_value()
            return found

        return texts

    async def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        wide: int = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return wide
