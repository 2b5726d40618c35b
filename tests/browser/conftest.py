"""A real browser at the whole stack: Chromium with Playwright, an identity provider, and people to be."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from artcafe_auth.config import PREFIX, AuthConfig
from artcafe_auth.passwords import Passwords
from artcafe_auth.people import add_user
from artcafe_auth.server import connect_store
from artcafe_auth.store import DynamoUserStore
from artcafe_common.clock import SystemClock
from artcafe_common.config import load
from artcafe_devstack.devstack import DevStack

from .browser_support import (
    ARTIFACTS,
    FLAGS,
    PATIENCE_SECONDS,
    Account,
    LocalIssuer,
    Organisation,
    Tab,
    found_organisation,
)
from .identity_provider import CLIENT_ID, USER_PREFIX, IdentityProvider

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NOT_RUN = (
    "no Chromium was found. Install it (Debian: apt install chromium),"
    " or name one with ARTCAFE_CHROMIUM=/path/to/it"
)


def find_chromium() -> str | None:
    """Return the browser to use: the one that ARTCAFE_CHROMIUM names, else the first on the PATH."""
    named = os.environ.get("ARTCAFE_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all of these in one event loop, that of the browser; and nothing where there is no browser."""
    there = find_chromium() is not None
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        if not there:
            item.add_marker(pytest.mark.skip(reason=NOT_RUN))


@pytest.fixture(scope="session")
def provider() -> Iterator[IdentityProvider]:
    """Run an OpenID Connect provider."""
    with IdentityProvider() as running:
        yield running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, provider: IdentityProvider) -> Iterator[DevStack]:
    """Run the embedded stack; people sign in with a password, or at the provider."""
    folder = tmp_path_factory.mktemp("browser")
    issuer = {
        "issuer": provider.url,
        "audiences": [CLIENT_ID],
        "algorithms": ["ES256"],
        "client_id": CLIENT_ID,
        "scopes": ["openid", "email"],
        "user_prefix": USER_PREFIX,
    }
    issuers = folder / "issuers.json"
    issuers.write_text(json.dumps([issuer]))
    settings = {
        "auth": {"AUTH_LOGIN_RATE": "0", "AUTH_ADDRESS_RATE": "0", "AUTH_ISSUERS_FILE": str(issuers)},
        # An agent that vanishes is given up before anybody tires of watching.
        "gateway": {
            "GATEWAY_DRAIN_SECONDS": "0.5",
            "GATEWAY_HEARTBEAT_INTERVAL": "2",
            "GATEWAY_HEARTBEAT_TIMEOUT": "8",
            # A page that a busy browser is late with is no stranger.
            "GATEWAY_AUTH_TIMEOUT": "30",
            # However busy the machine is, previews do not give way; one can be a flood where it is asked for.
            "GATEWAY_PREVIEW_LATE": "60",
            "GATEWAY_PREVIEW_SHARE": "1",
            "GATEWAY_PREVIEW_RATE": "500",
            "GATEWAY_PREVIEW_DATA_BYTES": "65536",
        },
    }
    with DevStack(folder / "stack", gateways=1, env=settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def api(stack: DevStack) -> AsyncIterator[httpx.AsyncClient]:
    """Give an HTTP client at the edge."""
    async with httpx.AsyncClient(base_url=f"{stack.base_url}/api/v1", timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def issuer(stack: DevStack, admin: Account) -> LocalIssuer:
    """Give what the local issuer's tokens are made of."""
    return LocalIssuer(
        admin.token, Path(stack.environment("auth")["AUTH_LOCAL_ISSUER_KEY_FILE"]).read_bytes()
    )


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def admin(stack: DevStack, api: httpx.AsyncClient) -> Account:
    """Give the platform's administrator, who sets plans and limits."""
    login = {"email": stack.demo["email"], "password": stack.demo["password"]}
    answer = await api.post("/auth/login", json=login)
    return Account("", login["email"], login["password"], answer.json()["access_token"], api)


@pytest.fixture
def new_account(issuer: LocalIssuer, api: httpx.AsyncClient) -> Callable[[], Awaitable[Account]]:
    """Give a function that makes somebody who is signed in and belongs to no organisation."""

    async def make() -> Account:
        name = f"p-{secrets.token_hex(4)}"
        email = f"{name}@example.test"
        return Account(name, email, "", issuer.token(sub=name, email=email), api)

    return make


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def users(stack: DevStack) -> AsyncIterator[DynamoUserStore]:
    """Give the local issuer's people: `add-user` takes seconds for each, most of them to start."""
    environment = stack.environment("auth")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        async with connect_store(load(AuthConfig, PREFIX, environment)) as dynamo:
            yield DynamoUserStore(dynamo)


@pytest.fixture
def new_password_account(users: DynamoUserStore, api: httpx.AsyncClient) -> Callable[[], Awaitable[Account]]:
    """Give a function that makes somebody who can sign in with a password and belongs to no organisation."""
    passwords = Passwords()

    async def make() -> Account:
        email, password = f"p-{secrets.token_hex(4)}@example.test", secrets.token_urlsafe(12)
        user = await add_user(users, passwords, SystemClock(), email, password)
        answer = await api.post("/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        return Account(user.user_id, email, password, answer.json()["access_token"], api)

    return make


@pytest_asyncio.fixture(loop_scope="session")
async def organisation(new_account: Callable[[], Awaitable[Account]]) -> Organisation:
    """Make an organisation without agents, with an owner."""
    return await found_organisation(await new_account())


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Run Chromium; each tab gets a profile of its own."""
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="session")
async def new_tab(
    browser: Browser, stack: DevStack, provider: IdentityProvider, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., Awaitable[Tab]]]:
    """Give a function that opens a tab with a fresh profile.

    At the end a picture of each is kept. None may have had an error in its console (which is also where a
    browser tells what the page's policy forbids), asked another host for anything, or named a token in an
    address.
    """
    tabs: list[Tab] = []
    contexts: list[BrowserContext] = []

    async def make(**options: Any) -> Tab:
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = await browser.new_context(**options)
        contexts.append(context)
        await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=stack.base_url)
        tab = Tab(await context.new_page(), stack.base_url)
        tabs.append(tab)
        return tab

    yield make
    ARTIFACTS.mkdir(exist_ok=True)
    for number, tab in enumerate(tabs):
        await tab.page.screenshot(path=ARTIFACTS / f"{request.node.name}-{number}.png", full_page=True)
    for context in contexts:
        await context.close()
    assert [problem for tab in tabs for problem in tab.problems] == []
    own = {urlsplit(stack.base_url).netloc, urlsplit(provider.url).netloc}
    addresses = [urlsplit(address) for tab in tabs for address in tab.addresses]
    assert {address.netloc for address in addresses if address.netloc} <= own
    # Every token is a JWT of a JSON object: it begins like this.
    assert [address.path for address in addresses if "eyJ" in address.geturl()] == []


@pytest_asyncio.fixture(loop_scope="session")
async def tab(new_tab: Callable[..., Awaitable[Tab]]) -> Tab:
    """Open one tab."""
    return await new_tab()
