"""nginx as the one address of the stack, from the templates that the containers use too."""

import grp
import os
import re
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artcafe_devstack import binaries, probes
from artcafe_devstack.process import ProcessSpec, StackError
from artcafe_devstack.repository import repository_root

_OPEN_FILES_WANTED = 65_536
_CONNECTIONS_PER_ADDRESS = 50_000
# Pages of a developer's own web server may talk to a stack on the same machine.
_LOCAL_ORIGINS = r'"~^http://(localhost|127\.0\.0\.1)(:\d{1,5})?$" $http_origin;'
_PLACE = re.compile(r"\$\{(EDGE_\w+)\}")


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The local ports behind the edge."""

    auth: int
    registry: int
    metering: int
    gateways_http: Sequence[int]
    gateways_ws: Sequence[int]


def edge_spec(folder: Path, port: int, upstreams: Upstreams, *, log: Path, access_log: Path) -> ProcessSpec:
    """Render the configuration into a folder and describe nginx with it.

    Raises:
        StackError: a template is missing or holds a place for which there is no value.
    """
    folder.mkdir(parents=True, exist_ok=True)
    templates = repository_root() / "edge"
    site, frame = folder / "artcafe.conf", folder / "nginx.conf"
    for file in (site, frame):
        file.touch(mode=0o600)
    site.write_text(
        render(templates / "templates" / "artcafe.conf.template", _site(port, upstreams, access_log))
    )
    frame.write_text(render(templates / "nginx.conf.template", _frame(folder, site)))
    return ProcessSpec(
        name="edge",
        argv=[str(binaries.nginx()), "-p", str(folder.resolve()), "-c", str(frame.resolve())],
        log=log,
        # Not through to a service: the edge is up before they are.
        ready=probes.http_answers(port, "/api/", 404),
        cwd=folder,
    )


def render(template: Path, values: Mapping[str, str]) -> str:
    """Return a template with each `${EDGE_...}` replaced; nginx's own variables are written `$name`."""
    try:
        text = template.read_text()
    except OSError as error:
        raise StackError(f"cannot read {template}: {error.strerror}") from error
    missing = sorted(set(_PLACE.findall(text)) - set(values))
    if missing:
        raise StackError(f"{template.name} needs a value for {', '.join(missing)}")
    return _PLACE.sub(lambda match: values[match[1]], text)


def _site(port: int, upstreams: Upstreams, access_log: Path) -> dict[str, str]:
    return {
        "EDGE_LISTEN": f"listen 127.0.0.1:{port} backlog=1024;",
        "EDGE_RESOLVER": "",
        "EDGE_REAL_IP": "",
        "EDGE_AUTH_SERVERS": _servers([upstreams.auth]),
        "EDGE_REGISTRY_SERVERS": _servers([upstreams.registry]),
        "EDGE_METERING_SERVERS": _servers([upstreams.metering]),
        "EDGE_GATEWAY_HTTP_SERVERS": _servers(upstreams.gateways_http),
        "EDGE_GATEWAY_WS_SERVERS": _servers(upstreams.gateways_ws),
        "EDGE_CORS_ORIGINS": _LOCAL_ORIGINS,
        "EDGE_CONNECTIONS_PER_ADDRESS": str(_CONNECTIONS_PER_ADDRESS),
        "EDGE_ACCESS_LOG": f'"{access_log.resolve()}"',
    }


def _servers(ports: Sequence[int]) -> str:
    # A restart takes a second or two: a replica that failed is tried again soon.
    return " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)


def _frame(folder: Path, site: Path) -> dict[str, str]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(_OPEN_FILES_WANTED, hard)
    return {
        # nginx started by root would drop to a user who cannot enter a folder of root's.
        "EDGE_USER": f"user root {grp.getgrgid(0).gr_name};" if os.geteuid() == 0 else "",
        "EDGE_WORKERS": "1",
        "EDGE_OPEN_FILES": str(files),
        "EDGE_CONNECTIONS": str(max(512, files // 2)),
        "EDGE_RUN_DIR": str(folder.resolve()),
        "EDGE_ERROR_LOG": "stderr",
        "EDGE_SITE": f'"{site.resolve()}"',
    }
