"""Settings of the services as the launcher takes them: ``NAME=VALUE`` or ``PROCESS:NAME=VALUE``."""

import difflib
import re
from collections.abc import Sequence

from artcafe_devstack.process import StackError
from artcafe_devstack.repository import repository_root

# Made from the code, and checked to be so: the launcher imports no service.
_DOCUMENT = "docs/configuration.md"
_SECTION = re.compile(r"## (.*)")
_ROW = re.compile(r"\| `([A-Z0-9_]+)` \| ([^|]*?) \|")
_SERVICES = {"auth": "auth", "registry": "registry", "gateway": "gateway-ws", "metering": "metering"}
# Read by what the services are made with.
_OF_LIBRARIES = ("AWS_", "PYTHON")
_ALL = "*"


def settings_from(given: Sequence[str], gateways: int) -> dict[str, dict[str, str]]:
    """Return settings by process, as `StackOptions.env` has them.

    Raises:
        StackError: one would have no effect, because nothing has that name.
    """
    known = _known() if given else {}
    replicas = [f"gateway-{number}" for number in range(1, gateways + 1)]
    settings: dict[str, dict[str, str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        process, colon, name = name.rpartition(":")
        if not equals or not name:
            raise StackError(f"--set takes NAME=VALUE or PROCESS:NAME=VALUE, not {text}")
        owners = [service for service, names in known.items() if name in names]
        if name.startswith(_OF_LIBRARIES):
            owners = list(known)
        if not owners:
            near = difflib.get_close_matches(name, set().union(*known.values()), n=1)
            hint = f"did you mean {near[0]}?" if near else f"{_DOCUMENT} has them all"
            raise StackError(f"--set: {name} is not a setting; {hint}")
        if not colon:
            # What one service has is refused by the others.
            process = owners[0] if len(owners) == 1 else _ALL
        elif process not in (*known, *replicas):
            raise StackError(f"--set: there is no {process}; there are {', '.join([*known, *replicas])}")
        elif process.partition("-")[0] not in owners:
            raise StackError(f"--set: {name} is not a setting of {process}, but of {', '.join(owners)}")
        settings.setdefault(process, {})[name] = value
    return settings


def _known() -> dict[str, set[str]]:
    """Return the names of all settings, by service."""
    sections: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in (repository_root() / _DOCUMENT).read_text().splitlines():
        if section := _SECTION.fullmatch(line):
            names = sections.setdefault(section[1], set())
        elif row := _ROW.match(line):
            names |= {row[1], f"{row[1]}_FILE"} if row[2] == "secret" else {row[1]}
    shared = sections["Every service"]
    return {service: sections[section] | shared for service, section in _SERVICES.items()}
