"""Show the running stack: two agents talk through two gateways, one is killed, all of it was counted."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from artcafe_agent import ArtcafeError, Client
from artcafe_devstack.process import StackError
from artcafe_devstack.state import StateFolder

ORDERS, CUPS = "cafe.orders", "cafe.cups"
_ROUNDS = 5
_PATIENCE_SECONDS = 30.0
_TRIES = 6
_MOTIFS = ("a fern", "a swan", "a sunrise", "two hearts", "the word `done`")


def main() -> int:
    """Run the demonstration, or its second agent; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m artcafe_devstack.demo", description=__doc__)
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(os.environ.get("ARTCAFE_STATE") or ".artcafe"),
        help="the folder of the running stack (ARTCAFE_STATE, default .artcafe)",
    )
    parser.add_argument(
        "--as-painter", action="store_true", help="be the second agent; the demo starts it so"
    )
    arguments = parser.parse_args()
    try:
        stack = _running_stack(arguments.state)
        asyncio.run(_painter(stack) if arguments.as_painter else _show(stack, arguments.state))
    except (StackError, ArtcafeError, OSError, TimeoutError) as error:
        print(f"demo: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _running_stack(folder: Path) -> dict[str, Any]:
    """Return what a running stack tells its clients."""
    stack = StateFolder(folder).running()
    if "agents" not in stack:
        raise StackError("the stack in this folder runs without the demo tenant")
    return stack


def _client(stack: dict[str, Any], number: int) -> Client:
    agent = stack["agents"][number]
    return Client(
        base_url=stack["base_url"],
        tenant_id=stack["tenant_id"],
        agent_id=agent["agent_id"],
        private_key_path=agent["private_key_path"],
    )


async def _painter(stack: dict[str, Any]) -> None:
    """Paint a cup for every order, until somebody ends the process."""
    async with _client(stack, 1) as client:
        orders = await client.subscribe(ORDERS)
        print(client.traffic.server_id, flush=True)
        async for order in orders:
            await client.publish(
                CUPS, {"number": order.data["number"], "motif": _MOTIFS[order.data["number"] - 1]}
            )


async def _show(stack: dict[str, Any], folder: Path) -> None:
    barista_id, painter_id = (agent["agent_id"] for agent in stack["agents"])
    token = await asyncio.to_thread(_sign_in, stack)
    before = await asyncio.to_thread(_messages_today, stack, token)
    print(f"Signed in as {stack['email']}, watching who is online.\n")
    async with _presence(stack, token) as seen:
        process, painters_gateway = await _start_painter(folder)
        try:
            print(f"{painter_id} runs as process {process.pid} and is connected to {painters_gateway}.")
            await seen(painter_id, "online")
            async with _barista(stack, other_than=painters_gateway) as barista:
                print(f"{barista_id} runs in this process and is connected to {barista.traffic.server_id}.\n")
                await _order_cups(barista, barista_id, painter_id)
                print(f"\nKilling {painter_id} (kill -9 {process.pid}) ...")
                process.kill()
                # No goodbye was said: it may be a broken line, so the agent has a while to come back.
                status, seconds = await seen(painter_id, "suspect", "offline")
                print(f"{painter_id} is seen {status} after {seconds * 1000:.0f} ms.")
                await process.wait()
                process, painters_gateway = await _start_painter(folder)
                await seen(painter_id, "online")
                print(f"{painter_id} was started again and is seen online, on {painters_gateway}.\n")
        finally:
            with contextlib.suppress(ProcessLookupError):
                # As by Ctrl-C: it says goodbye, and is not looked for afterwards.
                process.send_signal(signal.SIGINT)
            await process.wait()
    sent = 2 * _ROUNDS
    counted = await _counted(stack, token, before, sent)
    print(f"Published: {sent} messages. Counted by metering: {counted}.")


async def _start_painter(folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """Start the second agent in a process of its own; return it and the gateway it came to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "artcafe_devstack.demo", "--as-painter", "--state", str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(_PATIENCE_SECONDS):
        gateway = (await process.stdout.readline()).decode().strip()
    if not gateway:
        raise StackError("the second agent could not connect")
    return process, gateway


@asynccontextmanager
async def _barista(stack: dict[str, Any], *, other_than: str) -> AsyncIterator[Client]:
    """Connect the first agent, to another gateway than the second one's where there is one."""
    gateways = sum(name.startswith("gateway-") for name in stack["pids"])
    for attempt in range(1, _TRIES + 1):
        async with _client(stack, 0) as client:
            if client.traffic.server_id != other_than or gateways == 1 or attempt == _TRIES:
                yield client
                return


async def _order_cups(barista: Client, barista_id: str, painter_id: str) -> None:
    cups = await barista.subscribe(CUPS)
    times = []
    for number in range(1, _ROUNDS + 1):
        began = time.perf_counter()
        await barista.publish(ORDERS, {"number": number})
        print(f"  {barista_id:>8} -> {ORDERS}   cup {number}, please")
        async with asyncio.timeout(_PATIENCE_SECONDS):
            cup = await anext(cups)
        times.append(time.perf_counter() - began)
        print(f"  {cup.sender:>8} -> {CUPS}     cup {cup.data['number']}: {cup.data['motif']}")
    print(f"\nThere and back through both gateways, median: {statistics.median(times) * 1000:.1f} ms.")


@asynccontextmanager
async def _presence(stack: dict[str, Any], token: str) -> AsyncIterator[Callable[..., Any]]:
    """Watch presence as a dashboard does; yields a function that waits for an agent's status."""
    from websockets.asyncio.client import connect

    url = stack["base_url"].replace("http", "ws", 1) + "/ws/dashboard"
    async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        await socket.send(json.dumps({"type": "subscribe_agents"}))
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while json.loads(await socket.recv())["type"] != "agents_snapshot_complete":
                continue

        async def seen(agent_id: str, *statuses: str) -> tuple[str, float]:
            """Wait until an agent is seen with one of the statuses; return it and the seconds it took."""
            began = time.perf_counter()
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    event = json.loads(await socket.recv())
                    if event.get("agent_id") == agent_id and event.get("status") in statuses:
                        return event["status"], time.perf_counter() - began

        yield seen


async def _counted(stack: dict[str, Any], token: str, before: int, sent: int) -> int:
    """Return by how much the count has grown, waiting a moment for the last batch."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        counted = await asyncio.to_thread(_messages_today, stack, token) - before
        if counted >= sent or time.monotonic() > deadline:
            return counted
        await asyncio.sleep(0.1)


def _sign_in(stack: dict[str, Any]) -> str:
    body = json.dumps({"email": stack["email"], "password": stack["password"]}).encode()
    return str(_ask(stack, "/api/v1/auth/login", body=body)["access_token"])


def _messages_today(stack: dict[str, Any], token: str) -> int:
    return int(_ask(stack, "/api/v1/usage/current", token=token)["usage"]["messages"])


def _ask(stack: dict[str, Any], path: str, *, body: bytes | None = None, token: str = "") -> Any:
    headers = {"Content-Type": "application/json", "X-Tenant-Id": stack["tenant_id"]}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(stack["base_url"] + path, body, headers)
    with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
