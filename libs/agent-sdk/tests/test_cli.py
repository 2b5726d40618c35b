"""The command line: parsing, rendering and exit codes."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sdk_rest import RestPeer

from artcafe_agent.cli import build_parser, main
from artcafe_agent.cli.exits import Exit
from artcafe_agent.cli.output import as_text, json_text, record, table

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_settings")


def commands_of(
    parser: argparse.ArgumentParser, path: str = "artcafe"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command with its parser."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands_of(inner, f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "parser"), [pytest.param(*each, id=each[0]) for each in commands_of(build_parser())]
)
def test_every_command_explains_itself(path: str, parser: argparse.ArgumentParser) -> None:
    """Help has the exit codes, and an example that the parser understands."""
    text = parser.format_help()
    assert "exit codes:" in text
    assert "example:" in text
    assert "artcafe" in text.split("example:")[1]
    assert max(len(line) for line in text.splitlines()) <= 120


def test_examples_are_valid() -> None:
    """What the help shows can be typed: every example parses, pipes and redirections aside."""
    count = 0
    for _, parser in commands_of(build_parser()):
        for line in (parser.epilog or "").splitlines():
            match = re.search(r"artcafe (.*)", line)
            if line.startswith("  ") and match and "example" in (parser.epilog or ""):
                words = shlex.split(re.split(r" [<&]", match.group(1))[0])
                build_parser().parse_args(words)
                count += 1
    assert count > 30


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--server", "http://h:1", "--tenant", "acme", "agents", "list"],
        ["agents", "list", "--json", "--server", "http://h:1", "--tenant", "acme"],
        ["agents", "--tenant", "acme", "--json", "list", "--server", "http://h:1"],
    ],
)
def test_common_options_stand_anywhere(arguments: list[str]) -> None:
    """Before the command, inside it or after it."""
    args = build_parser().parse_args(arguments)
    assert (args.json, args.server, args.tenant, args.timeout) == (True, "http://h:1", "acme", 10.0)


def test_environment_fills_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options go before variables, variables before the default."""
    assert build_parser().parse_args(["status"]).server == "http://127.0.0.1:8080"
    monkeypatch.setenv("ARTCAFE_SERVER", "https://example.com")
    assert build_parser().parse_args(["status"]).server == "https://example.com"
    assert build_parser().parse_args(["status", "--server", "http://h"]).server == "http://h"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["agents"],
        ["agents", "create"],
        ["agents", "list", "--limit", "0"],
        ["agents", "create", "X", "--new-key", "a", "--public-key", "b"],
        ["listen"],
        ["listen", "c", "--for", "-1"],
        ["channels", "create", "X", "--access", "everybody"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: Capture) -> None:
    """The parser says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == Exit.USAGE
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "--server", "localhost:8080"], "not a server address"),
        (["agents", "list", "--tenant", "a b"], "is not an id"),
        (["publish", "c", "hello", "--agent", "a"], "is not JSON"),
        (["publish", "c", "1", "--agent", "a"], "--key is needed"),
        (["publish", "c", "1", "--agent", "a", "--key", "k"], "--tenant is needed"),
        (["publish", "c", "1", "--agent", "a", "--key", "k", "--tenant", "t"], "No such file"),
        (["tenants", "delete", "acme"], "--yes"),
        (["agents", "create", "X", "--metadata", "[]"], "must be a JSON object"),
        (["agents", "create", "X", "--public-key", "nothing"], "nothing"),
        (["login", "--password-stdin"], "--email is needed"),
        (["login", "--email", "x@example.com"], "--password-stdin"),
    ],
)
def test_arguments_that_make_no_sense_are_exit_code_2(
    arguments: list[str], message: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says which, and nothing was sent."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(arguments) == Exit.USAGE
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("artcafe: ")
    assert err.count("\n") == 1


def test_tables_are_aligned() -> None:
    """By the width on the screen, wide characters included, without trailing spaces."""
    rows: list[dict[str, Any]] = [
        {"agent_id": "a", "name": "喫茶店", "n": 1},
        {"agent_id": "longer", "name": "x", "n": None},
    ]
    assert table(rows, ("agent_id", "name", "n")).splitlines() == [
        "AGENT ID  NAME    N",
        "a         喫茶店  1",
        "longer    x       -",
    ]


def test_records_are_aligned() -> None:
    """One line for each field, nested values as JSON."""
    assert record({"a": "x", "long": {"b": [1]}, "list": ["p", "q"]}).splitlines() == [
        "a     x",
        'long  {"b": [1]}',
        "list  p, q",
    ]


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\x9b31m", "\u202e", "\x00", "\u200b"])
def test_terminal_is_safe_from_what_others_wrote(hostile: str) -> None:
    """Escape sequences, line breaks and tricks with the writing direction are shown, not obeyed."""
    for value in (hostile, [hostile], {"k": hostile}):
        assert all(each.isprintable() for each in as_text(value))


@pytest.mark.parametrize("value", ["\x1b[31m", "\x9b31m", "\x7f", "\u202egnp.exe", "\U000e0041", "ü 日本 😀"])
def test_json_says_nothing_to_a_terminal(value: str) -> None:
    """Programs read what was written; a terminal is shown no control character, as JSON may hold them."""
    for indent in (None, 2):
        text = json_text({"name": [value]}, indent)
        assert all(each.isprintable() or each == "\n" for each in text)
        assert json.loads(text) == {"name": [value]}
    assert "日本 😀" in json_text("日本 😀")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ("", "-"), ([], "-"), (0, "0"), (False, "false"), ("é", "é")]
)
def test_values_as_text(value: Any, text: str) -> None:
    """Nothing is a dash; zero and false are something."""
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "invalid_argument", Exit.FAILED),
        (401, "unauthenticated", Exit.NOT_AUTHENTICATED),
        (402, "resource_exhausted", Exit.FAILED),
        (403, "permission_denied", Exit.FAILED),
        (404, "not_found", Exit.NOT_FOUND),
        (409, "already_exists", Exit.FAILED),
        (429, "resource_exhausted", Exit.FAILED),
        (500, "internal", Exit.FAILED),
        (503, "unavailable", Exit.UNAVAILABLE),
        (504, "deadline_exceeded", Exit.UNAVAILABLE),
    ],
)
def test_refusals_are_one_line_and_an_exit_code(
    rest: RestPeer, capsys: Capture, status: int, code: str, expected: Exit
) -> None:
    """Problem details are shown to people, and told to scripts."""
    problem = {"status": status, "code": code, "detail": "be\x1bcause\nof this", "instance": "r9"}
    cure = ": put another token into $ARTCAFE_TOKEN" if status == 401 else ""
    rest.on("GET /agents/x", problem, status)
    assert main(["agents", "get", "x"]) == expected
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"artcafe: {code}: be\\x1bcause\\nof this [request r9]{cure}\n"


def test_proxy_without_problem_details(rest: RestPeer) -> None:
    """A bare 502 is an unavailable server."""
    rest.on("GET /agents/x", b"<html>", 502)
    assert main(["agents", "get", "x"]) == Exit.UNAVAILABLE


def test_no_server_is_exit_code_5(closed_port: int, capsys: Capture) -> None:
    """The line says where it was looked for."""
    assert main(["status", "--server", f"http://127.0.0.1:{closed_port}"]) == Exit.UNAVAILABLE
    assert "connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"[]", b"3", b"<html>"])
def test_other_servers_are_told_apart(rest: RestPeer, capsys: Capture, body: bytes) -> None:
    """An answer of another shape is one line, not a stack."""
    for request in ("GET /agents/x", "GET /health", "GET /agents?limit=100"):
        rest.on(request, body)
    for arguments in (["agents", "get", "x"], ["status"], ["agents", "list"]):
        assert main(arguments) == Exit.UNAVAILABLE
    assert capsys.readouterr().err.count("ArtCafe server") == 3
