"""Start the embedded stack, keep it running, and stop it again."""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from artcafe_devstack import __version__
from artcafe_devstack.process import StackError
from artcafe_devstack.settings import settings_from
from artcafe_devstack.stack import ALL_SERVICES, DEMO_EMAIL, Stack, StackOptions

_DEFAULT_EDGE_PORT = 8080
_DEFAULT_STATE = ".artcafe"
_TICK_SECONDS = 0.1


def main() -> int:
    """Run the stack until Ctrl-C or SIGTERM; return the exit status."""
    try:
        options = _options()
        return _run(options)
    except StackError as error:
        print(f"artcafe: {error}", file=sys.stderr)
        return 1


def _options() -> StackOptions:
    parser = argparse.ArgumentParser(
        prog="python -m artcafe_devstack",
        description="Run the whole of ArtCafe PubSub on this machine, as ordinary processes on 127.0.0.1.",
        epilog="Ctrl-C stops what was started, and nothing else. A second start finds everything as it was.",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(os.environ.get("ARTCAFE_STATE") or _DEFAULT_STATE),
        help=f"folder for data, logs and generated secrets (ARTCAFE_STATE, default {_DEFAULT_STATE})",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=_port_from_environment(),
        help=f"the one address' port (EDGE_PORT, default {_DEFAULT_EDGE_PORT})",
    )
    parser.add_argument("--gateways", type=int, default=2, help="how many gateways run (default 2)")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="[PROCESS:]NAME=VALUE",
        help="a setting for all services or for one (gateway, gateway-1, auth, ...); may be repeated",
    )
    parser.add_argument(
        "--services",
        default="all",
        metavar="NAMES",
        help="run only these services, separated by commas, or none; the stores and the edge always run",
    )
    parser.add_argument("--no-demo", action="store_true", help="do not make the demo tenant")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    return StackOptions(
        folder=arguments.state,
        edge_port=arguments.port,
        gateways=arguments.gateways,
        services=_services(arguments.services),
        env=settings_from(arguments.settings, arguments.gateways),
        demo=not arguments.no_demo,
    )


def _port_from_environment() -> int:
    text = os.environ.get("EDGE_PORT") or str(_DEFAULT_EDGE_PORT)
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise StackError(f"EDGE_PORT is not a port: {text}")
    return int(text)


def _services(text: str) -> frozenset[str]:
    if text == "all":
        return ALL_SERVICES
    return frozenset(text.split(",")) if text != "none" else frozenset()


def _run(options: StackOptions) -> int:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    began = time.monotonic()
    stack = Stack(options, lambda line: _say(f"  {line}"))
    _say(f"Starting ArtCafe PubSub in {options.folder}")
    stack.start(stop)
    if not stop.is_set():
        _say(ready_message(stack, time.monotonic() - began))
    while not stop.wait(_TICK_SECONDS):
        stack.tick()
    _say("\nStopping ...")
    began = time.monotonic()
    forced = stack.stop()
    if forced:
        _say(f"  did not end by themselves: {', '.join(forced)}")
    _say(f"Stopped in {time.monotonic() - began:.1f} s. Everything is kept in {options.folder}.")
    return 0


def ready_message(stack: Stack, seconds: float) -> str:
    """Return what is said to a person, and no command that would not work here."""
    lines = [
        f"Ready after {seconds:.1f} s.",
        "",
        f"  ArtCafe PubSub   {stack.base_url}",
    ]
    if stack.has_demo:
        lines += [
            f"  Sign in as       {DEMO_EMAIL}",
            f"  Password         {stack.secrets['demo_password']}",
        ]
    lines += [f"  Data and logs    {stack.options.folder}", ""]
    missing = sorted(ALL_SERVICES - stack.options.services)
    if missing:
        lines += [f"Without {', '.join(missing)}: what needs them is answered with 503.", ""]
    commands = []
    if stack.has_demo:
        commands.append("  make demo        two agents talk through two gateways, one of them is killed")
        server = "" if stack.ports["edge"] == _DEFAULT_EDGE_PORT else f" --server {stack.base_url}"
        # As `make` puts them where nobody's shell looks: python with the SDK, and artcafe.
        commands.append(
            f"  . {os.path.relpath(sys.prefix)}/bin/activate; artcafe login --email {DEMO_EMAIL}{server}"
        )
    if not missing:
        commands.append(f"  curl {stack.base_url}/health")
    if commands:
        lines += ["In another terminal:", *commands, ""]
    lines.append("Ctrl-C stops everything.")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
