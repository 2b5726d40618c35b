"""`artcafe login` and `artcafe logout`."""

from __future__ import annotations

import argparse
import getpass
import sys
import time

from artcafe_agent.cli.commands import Parsers, add_command
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import UsageError
from artcafe_agent.cli.tokens import Login
from artcafe_agent.errors import UnexpectedAnswer
from artcafe_agent.http import api_error


def register(parsers: Parsers) -> None:
    """Declare the commands."""
    parser = add_command(
        parsers,
        "login",
        login,
        "Log in with e-mail and password.",
        "artcafe login --email demo@example.com\n"
        "artcafe login --email demo@example.com --password-stdin < password.txt",
        "The token is kept in a file that only you can read, one for each server; $ARTCAFE_TOKEN is used "
        "instead of it. For servers whose people log in at an identity provider, put a token of that "
        "provider into $ARTCAFE_TOKEN.",
    )
    parser.add_argument("--email", help="asked for when it is missing")
    parser.add_argument(
        "--password-stdin", action="store_true", help="read the password from the standard input"
    )
    add_command(
        parsers,
        "logout",
        logout,
        "Forget the login at a server.",
        "artcafe logout --server http://127.0.0.1:8080",
    )


def login(context: Context, args: argparse.Namespace) -> None:
    """Exchange e-mail and password for a token, and keep it."""
    email = args.email or _ask_email(args.password_stdin)
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = getpass.getpass(f"Password of {email} at {context.server}: ")
    else:
        raise UsageError("no terminal to ask for the password: use --password-stdin")
    answer = context.ask("POST", "auth", "login", body={"email": email, "password": password})
    if not 200 <= answer.status < 300:
        raise api_error(answer)
    reply = answer.json()
    if not isinstance(reply, dict) or not isinstance(reply.get("access_token"), str):
        raise UnexpectedAnswer("the server gave no token")
    lifetime = float(reply.get("expires_in") or 0)
    expires_at = time.time() + lifetime if lifetime else 0.0
    context.logins.put(context.server, Login(token=reply["access_token"], email=email, expires_at=expires_at))
    # The token itself is not shown: terminals are scrolled back and recorded.
    context.out.result(
        {"server": context.server, "email": email, "expires_in": lifetime},
        f"logged in at {context.server} as {email}"
        + (f" for {lifetime / 60:.0f} minutes" if lifetime else ""),
    )


def logout(context: Context, args: argparse.Namespace) -> None:
    """Forget a token."""
    removed = context.logins.remove(context.server)
    context.out.result(
        {"server": context.server, "removed": removed},
        f"logged out of {context.server}" if removed else f"there was no login at {context.server}",
    )


def _ask_email(password_from_stdin: bool) -> str:
    if password_from_stdin or not sys.stdin.isatty():
        raise UsageError("--email is needed")
    sys.stderr.write("E-mail: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()
