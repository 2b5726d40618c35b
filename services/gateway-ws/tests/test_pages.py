"""The dashboard's files, and how they are served."""

from __future__ import annotations

import re
from collections.abc import Sequence

import httpx
import pytest
from starlette.applications import Starlette

from artcafe_gateway.pages import (
    FOLDER,
    INDEX,
    Origins,
    content_security_policy,
    load_pages,
    origin_of,
    page_routes,
)

PAGES = load_pages()
SCRIPTS = sorted(name for name in PAGES if name.endswith(".js"))


async def _nowhere() -> Sequence[str]:
    return []


async def _at_a_provider() -> Sequence[str]:
    return ["https://login.example.com/oauth2/token", "https://login.example.com/other"]


def _client(origins: Origins) -> httpx.AsyncClient:
    app = Starlette(routes=page_routes(PAGES, origins))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
def client() -> httpx.AsyncClient:
    """Give a client of the pages alone."""
    return _client(_nowhere)


async def test_the_page_allows_nothing_that_is_not_its_own(client: httpx.AsyncClient) -> None:
    """The policy of the page has no wildcard, no inline code and no frame around it."""
    answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in answer.headers["content-security-policy"]


async def test_the_page_may_call_where_people_sign_in() -> None:
    """The origins of the providers are in the policy, once each."""
    policy = (await _client(_at_a_provider).get("/")).headers["content-security-policy"]
    assert "connect-src 'self' https://login.example.com;" in policy


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://login.example.com/oauth2/token", "https://login.example.com"),
        ("http://127.0.0.1:9000/token", "http://127.0.0.1:9000"),
        ("https://evil.example;script-src *", None),
        ("javascript:alert(1)", None),
        ("https://*/", None),
        ("https://host:port/", None),
    ],
)
def test_only_plain_origins_get_into_the_policy(url: str, origin: str | None) -> None:
    """Whatever an identity provider calls its address, it cannot write the policy."""
    assert origin_of(url) == origin
    assert (origin or "'self'") in content_security_policy([url])
    assert "evil" not in content_security_policy([url])


def test_the_page_names_every_module() -> None:
    """A browser asks for all modules at once, with the first answer."""
    page = PAGES[INDEX].body.decode()
    assert re.findall('rel="modulepreload" href="/dashboard/([^"]+)"', page) == SCRIPTS


@pytest.mark.parametrize("name", sorted(set(PAGES) - {INDEX}))
async def test_every_file_is_served_as_what_it_is(client: httpx.AsyncClient, name: str) -> None:
    """Each file comes with its media type, which browsers must not guess."""
    answer = await client.get(f"/dashboard/{name}")
    assert answer.status_code == 200
    kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == (FOLDER / name).read_bytes()


async def test_a_file_that_is_the_same_is_not_sent_again(client: httpx.AsyncClient) -> None:
    """A browser that has a file is told so, also where the edge has made its tag a weak one."""
    first = await client.get("/dashboard/app.js")
    assert first.headers["cache-control"] == "no-cache"
    for tag in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}'):
        again = await client.get("/dashboard/app.js", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert (await client.get("/dashboard/app.js", headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    "path", ["../pages.py", "..%2Fpages.py", "%2e%2e/app.py", "", "index.html", "nothing.js"]
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    """No path leads to another file."""
    assert (await client.get(f"/dashboard/{path}")).status_code == 404


def test_the_page_holds_no_code_and_no_style() -> None:
    """What the policy would refuse is not there in the first place."""
    page = PAGES[INDEX].body.decode()
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page) == []
    for reference in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert reference.removeprefix("/dashboard/") in PAGES


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_never_make_markup_of_data(name: str) -> None:
    """No script writes HTML, runs text as code, sets styles from text, or keeps anything beyond the tab."""
    script = PAGES[name].body.decode()
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|localStorage"
    )
    assert re.findall(forbidden, script) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", script) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_what_is_there(name: str) -> None:
    """Every import leads to a file of the dashboard."""
    script = PAGES[name].body.decode()
    for imported in re.findall(r'^import .* from "([^"]+)";', script, re.MULTILINE):
        path = (FOLDER / name).parent / imported
        assert path.resolve().relative_to(FOLDER.resolve()).as_posix() in PAGES
