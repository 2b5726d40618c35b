"""Write what is made from other files: documents of settings, errors, roles, subjects; a manifest.

``python tools/docs.py`` writes them, ``--check`` fails where one is out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from artcafe_auth.config import AuthConfig
from artcafe_common.config import Setting, SharedConfig, settings_of
from artcafe_common.contracts import auth, gateway, metering, platform, registry
from artcafe_common.contracts.endpoint import Endpoint, Event
from artcafe_common.errors import RENDERINGS, CloseCode
from artcafe_common.roles import PERMISSIONS, PLATFORM_PERMISSIONS, Permission
from artcafe_gateway.config import GatewayConfig
from artcafe_metering.config import MeteringConfig
from artcafe_registry.config import RegistryConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTICE = "<!-- Made by `make docs` from the code: change it there. -->\n"
MANIFEST_NOTICE = "# Made by `make docs` from deploy/monitoring/alerts.yaml: change it there.\n"
SERVICES: dict[str, tuple[type[SharedConfig], str]] = {
    "auth": (AuthConfig, "AUTH_"),
    "registry": (RegistryConfig, "REGISTRY_"),
    "gateway-ws": (GatewayConfig, "GATEWAY_"),
    "metering": (MeteringConfig, "METERING_"),
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |"]
    lines.append("|" + "---|" * len(lines[0].strip("|").split("|")))
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Return the document of all settings."""
    parts = [
        "# Configuration\n",
        "Everything is set by environment variables. A misspelt or missing one stops the start and is named;",
        "`python -m artcafe_<service> --check-config` only checks. An empty variable counts as not set. A",
        "secret may be in a file instead: `NATS_PASSWORD_FILE` names the file for `NATS_PASSWORD`.\n",
        "## Every service\n",
        _settings(settings_of(SharedConfig, "")),
    ]
    # A service may say more of a shared setting, such as that it needs it.
    shared = list(settings_of(SharedConfig, ""))
    for name, (config, prefix) in SERVICES.items():
        own = [setting for setting in settings_of(config, prefix) if setting not in shared]
        parts += [f"## {name}\n", _settings(own)]
    return "\n".join(parts)


def errors() -> str:
    """Return the document of error codes and close codes."""
    codes = [
        [f"`{code}`", str(r.http_status), r.title, str(r.close_code), "yes" if r.retryable else "no"]
        for code, r in RENDERINGS.items()
    ]
    closes = [[str(code), code.name.lower().replace("_", " ")] for code in sorted(CloseCode)]
    return "\n".join(
        [
            "# Errors\n",
            "A plan's limit that is reached is `resource_exhausted` with HTTP 402 and the fields `resource`,",
            "`current`, `limit` and `plan`; a socket that it ends is closed with 4504.\n",
            table(["code", "HTTP", "title", "closes a session with", "worth trying again"], codes),
            "## Close codes\n",
            "1012 and 4001-4499: come back. 4500-4999: not before something has changed.\n",
            table(["code", "name"], closes),
        ]
    )


def roles() -> str:
    """Return the document of roles and permissions."""
    names = [*PERMISSIONS, *PLATFORM_PERMISSIONS]
    held = [*PERMISSIONS.values(), *PLATFORM_PERMISSIONS.values()]
    head = ["permission", *(f"{name}" for name in PERMISSIONS)]
    head += [f"platform: {name}" for name in PLATFORM_PERMISSIONS]
    assert len(names) == len(held)
    rows = [[f"`{p}`", *("yes" if p in allowed else "" for allowed in held)] for p in Permission]
    return "\n".join(
        [
            "# Roles\n",
            "What a person may do in a tenant follows from their role there. A platform role holds in every",
            "tenant, in addition.\n",
            table(head, rows),
        ]
    )


def subjects() -> str:
    """Return the document of the contracts between services."""
    endpoints: list[list[str]] = []
    events: list[list[str]] = []
    for module in (auth, registry, gateway, metering):
        for value in vars(module).values():
            if isinstance(value, Endpoint):
                meaning = _first_sentence(value.request.__doc__)
                endpoints.append(
                    [f"`{value.subject}`", value.request.__name__, value.reply.__name__, meaning]
                )
            elif isinstance(value, Event):
                events.append(
                    [f"`{value.template}`", value.payload.__name__, _first_sentence(value.payload.__doc__)]
                )
    for made in (gateway.sessions_endpoint("{process_id}"), platform.health_endpoint("{service}")):
        meaning = _first_sentence(made.request.__doc__)
        endpoints.append([f"`{made.subject}`", made.request.__name__, made.reply.__name__, meaning])
    return "\n".join(
        [
            "# NATS subjects\n",
            "Contracts between services (`artcafe_common.contracts`). Fields are only ever added; unknown",
            "ones are ignored.\n",
            "## Requests\n",
            table(["subject", "request", "reply", "meaning"], endpoints),
            "## Events\n",
            table(["subject", "payload", "meaning"], events),
            "## Messages\n",
            table(
                ["subject", "what"],
                [["`tenant.{tenant_id}.channel.{channel_id}`", "Live messages, as agents receive them"]],
            ),
        ]
    )


def alerts_for_kubernetes() -> str:
    """Return the alerts as the Prometheus operator takes them: kustomize cannot put a file into an object."""
    rules = (ROOT / "deploy" / "monitoring" / "alerts.yaml").read_text()
    # From where the rules begin; what is said before them is for people who read them there.
    groups = rules[rules.index("groups:") :]
    head = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: artcafe\nspec:\n"
    return head + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


DOCUMENTS: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "errors.md": errors,
    "roles.md": roles,
    "subjects.md": subjects,
}
MANIFESTS: dict[str, Callable[[], str]] = {"k8s/monitoring/alerts.yaml": alerts_for_kubernetes}


def main() -> int:
    """Write or check the documents."""
    parser = argparse.ArgumentParser(description="Write the documents that are made from the code.")
    parser.add_argument("--check", action="store_true", help="only say which are out of date")
    arguments = parser.parse_args()
    made = {DOCS / name: NOTICE + make() for name, make in DOCUMENTS.items()}
    made |= {ROOT / name: MANIFEST_NOTICE + make() for name, make in MANIFESTS.items()}
    stale = []
    for path, text in made.items():
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path.name)
        if not arguments.check:
            path.write_text(text)
            print(f"written: {path.parent.name}/{path.name}")
    if arguments.check and stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    return 0


def _settings(settings: Iterable[Setting]) -> str:
    rows = []
    for setting in settings:
        default = "required" if setting.required else _default(setting.default)
        kind = f"{setting.type_name}, {setting.bounds}" if setting.bounds else setting.type_name
        rows.append([f"`{setting.variable}`", kind, default, setting.description])
    return table(["variable", "type", "default", "meaning"], rows)


def _default(value: object) -> str:
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


def _first_sentence(docstring: str | None) -> str:
    text = " ".join((docstring or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
