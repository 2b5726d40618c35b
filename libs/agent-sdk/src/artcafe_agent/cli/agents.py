"""`artcafe agents`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_command, add_group, add_page_options
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import UsageError
from artcafe_agent.cli.keygen import check_free, public_path, write_pair, write_private
from artcafe_agent.cli.output import record, table
from artcafe_agent.cli.pages import show_list
from artcafe_agent.keys import AgentKey

COLUMNS = ("agent_id", "name", "status", "type", "capabilities", "last_seen")
KEY_COLUMNS = ("fingerprint", "type", "name", "created_at")


def register(parsers: Parsers) -> None:
    """Declare the commands."""
    agents = add_group(
        parsers,
        "agents",
        "Agents of an organisation, and their keys.",
        "artcafe agents create Greeter --id greeter --new-key ./greeter.key\nartcafe agents list",
    )

    parser = add_command(
        agents, "list", list_agents, "List agents.", "artcafe agents list --status online --json"
    )
    parser.add_argument("--status", choices=("online", "suspect", "offline"), help="only these")
    parser.add_argument("--capability", metavar="NAME", help="only agents that have it")
    add_page_options(parser)

    parser = add_command(agents, "get", get, "Show one agent.", "artcafe agents get greeter")
    parser.add_argument("agent_id", metavar="AGENT")

    parser = add_command(
        agents,
        "create",
        create,
        "Create an agent.",
        "artcafe agents create Greeter --id greeter --new-key ./greeter.key",
        "With --new-key a pair is made here and only its public half is sent. With --public-key you bring "
        "your own. With neither the server makes a pair and the private key is shown once.",
    )
    parser.add_argument("name", metavar="NAME", help="what people call it")
    parser.add_argument("--id", dest="agent_id", metavar="ID", help="chosen by the server when missing")
    parser.add_argument("--type", metavar="TYPE", help="any word")
    parser.add_argument("--description", metavar="TEXT")
    parser.add_argument("--capability", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--metadata", metavar="JSON", help="an object")
    _add_key_options(parser)

    parser = add_command(
        agents,
        "delete",
        delete,
        "Delete an agent with its keys and grants, and close its connections.",
        "artcafe agents delete greeter",
    )
    parser.add_argument("agent_id", metavar="AGENT")

    keys = add_group(
        agents,
        "keys",
        "Keys of an agent; with two of them keys are changed without a break.",
        "artcafe agents keys add greeter --new-key ./greeter2.key\n"
        "artcafe agents keys revoke greeter SHA256:uNiVztksCsDhcc0u9e8BrUELKpJ3Lt1dG8vU9W7hXbk",
    )
    parser = add_command(keys, "list", list_keys, "List an agent's keys.", "artcafe agents keys list greeter")
    parser.add_argument("agent_id", metavar="AGENT")
    parser = add_command(
        keys, "add", add_key, "Add a key.", "artcafe agents keys add greeter --new-key ./greeter2.key"
    )
    parser.add_argument("agent_id", metavar="AGENT")
    parser.add_argument("--name", metavar="TEXT", help="what people call the key")
    _add_key_options(parser)
    parser = add_command(
        keys,
        "revoke",
        revoke_key,
        "Take a key away; connections it opened are closed.",
        "artcafe agents keys revoke greeter SHA256:uNiVztksCsDhcc0u9e8BrUELKpJ3Lt1dG8vU9W7hXbk",
    )
    parser.add_argument("agent_id", metavar="AGENT")
    parser.add_argument("fingerprint", metavar="FINGERPRINT", help="as `keys list` and ssh-keygen -l show it")


def list_agents(context: Context, args: argparse.Namespace) -> None:
    """List agents."""
    query = {"status": args.status, "capability": args.capability}
    show_list(context, args, "agents", COLUMNS, "agents", query=query)


def get(context: Context, args: argparse.Namespace) -> None:
    """Show one agent."""
    agent = context.call("GET", "agents", args.agent_id)
    context.out.result(agent, _agent_text(agent))


def create(context: Context, args: argparse.Namespace) -> None:
    """Create an agent."""
    body: dict[str, Any] = {"name": args.name, "capabilities": args.capability}
    for field in ("agent_id", "type", "description"):
        if (value := getattr(args, field)) is not None:
            body[field] = value
    if args.metadata is not None:
        body["metadata"] = json_object(args.metadata, "--metadata")
    key = _public_key(args, body)
    reply = context.call("POST", "agents", body=body)
    reply["private_key_path"] = _keep(context, args, key, reply)
    context.out.result(reply, _agent_text(reply.get("agent", reply)))
    _show_private(context, reply)


def delete(context: Context, args: argparse.Namespace) -> None:
    """Delete an agent."""
    context.call("DELETE", "agents", args.agent_id)
    context.out.result({"deleted": args.agent_id}, f"deleted {args.agent_id}")


def list_keys(context: Context, args: argparse.Namespace) -> None:
    """List an agent's keys."""
    reply = context.call("GET", "agents", args.agent_id, "keys")
    keys = reply.get("keys", [])
    context.out.result(reply, table(keys, KEY_COLUMNS) if keys else "no keys")


def add_key(context: Context, args: argparse.Namespace) -> None:
    """Add a key to an agent."""
    body: dict[str, Any] = {} if args.name is None else {"name": args.name}
    key = _public_key(args, body)
    reply = context.call("POST", "agents", args.agent_id, "keys", body=body)
    reply["private_key_path"] = _keep(context, args, key, reply)
    context.out.result(reply, record({name: reply.get("key", reply).get(name) for name in KEY_COLUMNS}))
    _show_private(context, reply)


def revoke_key(context: Context, args: argparse.Namespace) -> None:
    """Take a key away from an agent."""
    context.call("DELETE", "agents", args.agent_id, "keys", query={"fingerprint": args.fingerprint})
    context.out.result({"revoked": args.fingerprint}, f"revoked {args.fingerprint}")


def json_object(text: str, option: str) -> dict[str, Any]:
    """Read an object from the command line.

    Raises:
        UsageError: It is not one.
    """
    try:
        value = json.loads(text)
    except ValueError as problem:
        raise UsageError(f"{option} is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{option} must be a JSON object")
    return value


def _add_key_options(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--public-key", metavar="FILE", type=Path, help="an OpenSSH public key")
    choice.add_argument("--new-key", metavar="FILE", type=Path, help="make a pair here, private half in FILE")
    choice.add_argument("--save-key", metavar="FILE", type=Path, help="put the server's private key in FILE")


def _public_key(args: argparse.Namespace, body: dict[str, Any]) -> AgentKey | None:
    """Put the public key that was asked for into the body; return the pair if it was made here."""
    if args.public_key is not None:
        try:
            body["public_key"] = args.public_key.read_text().strip()
        except (OSError, UnicodeDecodeError) as problem:
            raise UsageError(f"{args.public_key}: {problem}") from None
    if args.save_key is not None:
        check_free(args.save_key)
    if args.new_key is None:
        return None
    # Before the server has it: a pair that cannot be kept must not become an agent's only key.
    check_free(args.new_key, beside=public_path(args.new_key))
    key = AgentKey.generate()
    body["public_key"] = key.public_key
    return key


def _keep(
    context: Context, args: argparse.Namespace, key: AgentKey | None, reply: dict[str, Any]
) -> str | None:
    if key is not None:
        write_pair(key, args.new_key)
        return str(args.new_key)
    if args.save_key is not None and reply.get("private_key"):
        write_private(args.save_key, reply.pop("private_key").encode())
        return str(args.save_key)
    return None


def _show_private(context: Context, reply: dict[str, Any]) -> None:
    if reply["private_key_path"] is not None:
        context.out.note(f"private key: {reply['private_key_path']}")
    elif reply.get("private_key") and not context.out.as_json:
        context.out.note("this private key is shown once; keep it where only the agent can read it:")
        context.out.line(reply, reply["private_key"].rstrip())


def _agent_text(agent: dict[str, Any]) -> str:
    shown = {name: value for name, value in agent.items() if name not in ("id", "keys")}
    keys = [str(key.get("fingerprint")) for key in agent.get("keys", [])]
    return record({**shown, "keys": keys})
