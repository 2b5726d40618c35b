"""A real browser at the whole stack: Chromium with Playwright, an identity provider, and people to be."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, async_playwright

from artcafe_devstack.devstack import DevStack
from artcafe_devstack.process import inherited_environment

from .browser_support import ARTIFACTS, FLAGS, Account, Organisation, Tab
from .identity_provider import CLIENT_ID, IdentityProvider

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
    """Run nothing here where there is no browser."""
    if find_chromium() is None:
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(pytest.mark.skip(reason=NOT_RUN))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, what was not run."""
    if find_chromium() is None:
        terminalreporter.section("THE BROWSER TESTS WERE NOT RUN", red=True, bold=True)
        terminalreporter.write_line(f"tests/browser: {NOT_RUN}", red=True, bold=True)


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
    }
    issuers = folder / "issuers.json"
    issuers.write_text(json.dumps([issuer]))
    settings = {
        "auth": {"AUTH_LOGIN_RATE": "0", "AUTH_ADDRESS_RATE": "0", "AUTH_ISSUERS_FILE": str(issuers)},
        "gateway": {"GATEWAY_DRAIN_SECONDS": "0.5"},
    }
    with DevStack(folder / "stack", gateways=1, env=settings) as running:
        yield running


@pytest.fixture
async def api(stack: DevStack) -> AsyncIterator[httpx.AsyncClient]:
    """Give an HTTP client at the edge."""
    async with httpx.AsyncClient(base_url=f"{stack.base_url}/api/v1", timeout=10.0) as client:
        yield client


@pytest.fixture
def new_account(stack: DevStack, api: httpx.AsyncClient) -> Callable[[], Awaitable[Account]]:
    """Give a function that makes somebody who can sign in and belongs to no organisation."""

    async def make() -> Account:
        email, password = f"p-{secrets.token_hex(4)}@example.test", secrets.token_urlsafe(12)
        made = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "artcafe_auth", "add-user", "--email", email, "--password-stdin"],
            env={**inherited_environment(), **stack.environment("auth")},
            input=password + "\n",
            text=True,
            check=True,
            capture_output=True,
        )
        line = next(line for line in made.stdout.splitlines() if line.startswith("{"))
        answer = await api.post("/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        return Account(json.loads(line)["user_id"], email, password, answer.json()["access_token"], api)

    return make


@pytest.fixture
async def organisation(new_account: Callable[[], Awaitable[Account]]) -> Organisation:
    """Make an organisation without agents, with an owner."""
    owner = await new_account()
    tenant_id = f"org-{secrets.token_hex(4)}"
    await owner.call("POST", "/tenants", json={"name": "Browser test", "tenant_id": tenant_id})
    return Organisation(tenant_id, owner)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Run Chromium."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield running
        await running.close()


@pytest.fixture
async def new_tab(
    browser: Browser, stack: DevStack, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., Awaitable[Tab]]]:
    """Give a function that opens a tab with a fresh profile; none may have had an error in its console."""
    tabs: list[Tab] = []

    async def make(**options: Any) -> Tab:
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = await browser.new_context(**options)
        await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=stack.base_url)
        tab = Tab(await context.new_page(), stack.base_url)
        tabs.append(tab)
        return tab

    yield make
    ARTIFACTS.mkdir(exist_ok=True)
    for number, tab in enumerate(tabs):
        await tab.page.screenshot(path=ARTIFACTS / f"{request.node.name}-{number}.png", full_page=True)
    assert [problem for tab in tabs for problem in tab.problems] == []


@pytest.fixture
async def tab(new_tab: Callable[..., Awaitable[Tab]]) -> Tab:
    """Open one tab."""
    return await new_tab()
