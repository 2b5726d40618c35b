"""The whole stack: what runs, with which settings, in which order."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from artcafe_devstack import probes
from artcafe_devstack.edge import Upstreams, edge_spec
from artcafe_devstack.ports import free_port, is_free
from artcafe_devstack.process import ProcessSpec, StackError
from artcafe_devstack.repository import repository_root
from artcafe_devstack.seed import seed
from artcafe_devstack.servers import AwsEndpoint, emulator_spec, nats_spec, valkey_spec
from artcafe_devstack.state import NATS_USERS, StateFolder
from artcafe_devstack.supervisor import Supervisor

ALL_SERVICES = frozenset({"auth", "registry", "metering", "gateway"})
DEMO_EMAIL = "demo@artcafe.local"
DEMO_TENANT = "demo"
# Longer than any of them takes to finish what it has begun, on a machine that has much else to do.
_SERVICE_STOP_SECONDS = 20.0
# The stores and the edge are waited for before the services are started.
_BARRIER = 0
# The service's role where it has another name.
_ROLES = {"gateway": "gateway-ws"}

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What a stack consists of.

    `edge_port` is a free one where it is None. `env` has settings by process: for one (`gateway-1`), for all
    replicas of a service (`gateway`) or for all services (`*`). `demo` makes a tenant to play with.
    """

    folder: Path
    edge_port: int | None = None
    gateways: int = 2
    services: frozenset[str] = ALL_SERVICES
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    demo: bool = True

    def __post_init__(self) -> None:
        unknown = sorted(self.services - ALL_SERVICES)
        if unknown:
            raise StackError(f"there is no service {unknown[0]}; there are {', '.join(sorted(ALL_SERVICES))}")
        if self.gateways < 1:
            raise StackError("at least one gateway is needed")


class Stack:
    """A stack in a folder, run by the thread that opens it."""

    def __init__(self, options: StackOptions, report: Report) -> None:
        self.options = options
        self.state = StateFolder(options.folder)
        self._report = report
        self._demo: dict[str, Any] | None = None
        self.secrets: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self.supervisor = Supervisor([], report=report, on_pids=lambda: None)

    @property
    def base_url(self) -> str:
        """The one address of the stack."""
        return f"http://127.0.0.1:{self.ports['edge']}"

    @property
    def gateway_names(self) -> list[str]:
        """The names of the gateways, which are their server ids."""
        return [f"gateway-{number}" for number in range(1, self.options.gateways + 1)]

    @property
    def has_demo(self) -> bool:
        """Whether there is a demo tenant; making it takes every service."""
        return self.options.demo and self.options.services == ALL_SERVICES

    def urls(self) -> dict[str, dict[str, str]]:
        """Return the internal addresses, by process."""
        urls = {name: {"http": self._url(name)} for name in ("auth", "registry", "metering")}
        for name in self.gateway_names:
            urls[name] = {"http": self._url(name), "ws": f"ws://127.0.0.1:{self.ports[f'{name}-ws']}"}
        urls["nats"] = {"nats": f"nats://127.0.0.1:{self.ports['nats']}"}
        urls["valkey"] = {"redis": f"redis://:{self.secrets['valkey']}@127.0.0.1:{self.ports['valkey']}/0"}
        urls["aws"] = {"http": self._url("aws")}
        return urls

    def start(self, stop: threading.Event) -> None:
        """Start everything and wait until it is ready; give up between two processes when `stop` is set.

        Raises:
            StackError: something is missing, in use, or did not get ready; whatever was started is stopped.
        """
        self.state.open()
        try:
            self._prepare()
            self.supervisor.start_all([_BARRIER, 2], stop)
            if self.has_demo and not stop.is_set():
                self._make_demo()
            self._publish()
        except BaseException:
            self.stop()
            raise

    def tick(self) -> None:
        """Look after the processes once."""
        self.supervisor.tick()

    def stop(self) -> list[str]:
        """Stop everything; return the names of processes that had to be ended by force."""
        self.state.demo_file.unlink(missing_ok=True)
        self._demo = None
        forced = self.supervisor.stop_all()
        self.state.close()
        return forced

    def _prepare(self) -> None:
        edge_port = self.options.edge_port
        if edge_port is not None and not is_free(edge_port):
            raise StackError(
                f"port {edge_port} is in use: stop what uses it, or set EDGE_PORT to another one"
            )
        inner = ["nats", "nats-monitor", "valkey", "aws", "auth", "registry", "metering"]
        inner += [name for gateway in self.gateway_names for name in (gateway, f"{gateway}-ws")]
        self.ports = self.state.ports(inner)
        self.ports["edge"] = edge_port or free_port()
        self.secrets = self.state.secrets()
        self.supervisor = Supervisor(self._groups(), report=self._report, on_pids=self._note_pids)

    def _groups(self) -> Iterator[list[ProcessSpec]]:
        """Yield what runs, in the order of starting; gateways come last, so that they are drained first."""
        passwords = {f"NATS_{u.upper()}_PASSWORD": self.secrets[f"nats_{u}"] for u in NATS_USERS}
        config = repository_root() / "deploy" / "nats" / "nats.conf"
        of, ports = self.state.of, self.ports
        yield [
            self._logged(
                nats_spec(
                    of("nats"), ports["nats"], config=config, env=passwords, monitor=ports["nats-monitor"]
                )
            ),
            self._logged(valkey_spec(of("valkey"), ports["valkey"], password=self.secrets["valkey"])),
            self._logged(
                emulator_spec(
                    of("aws"),
                    ports["aws"],
                    rights=repository_root() / "deploy/aws/iam",
                    key=self.secrets["aws"],
                )
            ),
            self._edge(),
        ]
        services = self.options.services
        yield [self._service(name, name) for name in ("auth", "registry", "metering") if name in services]
        yield [self._service(name, "gateway") for name in self.gateway_names if "gateway" in services]

    def _edge(self) -> ProcessSpec:
        upstreams = Upstreams(
            auth=self.ports["auth"],
            registry=self.ports["registry"],
            metering=self.ports["metering"],
            gateways_http=[self.ports[name] for name in self.gateway_names],
            gateways_ws=[self.ports[f"{name}-ws"] for name in self.gateway_names],
        )
        logs = self.state.logs
        return edge_spec(
            self.state.of("edge"),
            self.ports["edge"],
            upstreams,
            log=logs / "edge.log",
            access_log=logs / "edge-access.log",
        )

    def _service(self, name: str, service: str) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            argv=[sys.executable, "-m", f"artcafe_{service}"],
            env=self.environment(name, service),
            log=self.state.logs / f"{name}.log",
            ready=probes.http_ready(self.ports[name], "/ready"),
            cwd=self.state.of(name),
            stop_seconds=_SERVICE_STOP_SECONDS,
            start_seconds=60.0,
        )

    def environment(self, name: str, service: str) -> dict[str, str]:
        """Return the settings of one process."""
        prefix = service.upper()
        folder = self.state.of(name)
        settings = {
            "ENVIRONMENT": "development",
            "ARTCAFE_SERVER_ID": name,
            "ARTCAFE_STATE_DIR": str(folder),
            "CREATE_TABLES": "true",
            "NATS_URL": f"nats://127.0.0.1:{self.ports['nats']}",
            "NATS_USER": service,
            "NATS_PASSWORD": self.secrets[f"nats_{service}"],
            f"{prefix}_HTTP_HOST": "127.0.0.1",
            f"{prefix}_HTTP_PORT": str(self.ports[name]),
            "PYTHONUNBUFFERED": "1",
            # The rights of the service's role on AWS, and those to make its tables, as at a first start.
            **AwsEndpoint(
                self._url("aws"),
                access_key_id=f"rights.{_ROLES.get(service, service)}.tables.{self.secrets['aws']}",
            ).environment(),
        }
        if service == "auth":
            settings["AUTH_LOCAL_ISSUER"] = "true"
            settings["AUTH_LOCAL_ISSUER_URL"] = f"{self.base_url}/api/v1/auth"
            settings["AUTH_LOCAL_ISSUER_KEY_FILE"] = str(folder / "issuer.pem")
        elif service == "registry":
            settings["REGISTRY_CURSOR_KEY"] = self.secrets["registry_cursor_key"]
            settings["REGISTRY_SELF_SERVICE_TENANTS"] = "true"
            settings["REGISTRY_AUTO_CREATE_CHANNELS"] = "true"
        elif service == "metering":
            settings["REDIS_URL"] = f"redis://:{self.secrets['valkey']}@127.0.0.1:{self.ports['valkey']}/0"
            settings["METERING_SIGNING_KEY_FILE"] = str(folder / "export-signing.pem")
            settings["METERING_EXPORT_BUCKET"] = "artcafe-usage-exports"
            settings["METERING_BACKUP_DIR"] = str(folder / "backups")
            settings["METERING_BACKUP_BUCKET"] = "artcafe-usage-backups"
        else:
            settings["GATEWAY_WS_HOST"] = "127.0.0.1"
            settings["GATEWAY_WS_PORT"] = str(self.ports[f"{name}-ws"])
            settings["GATEWAY_PUBLIC_URL"] = self.base_url
        for key in ("*", service, name):
            settings.update(self.options.env.get(key, {}))
        return settings

    def _logged(self, spec: ProcessSpec) -> ProcessSpec:
        """Return a server's description with its log among the others."""
        return replace(spec, log=self.state.logs / f"{spec.name}.log")

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def _make_demo(self) -> None:
        self._demo = seed(
            self.state,
            base_url=self.base_url,
            tenant_id=DEMO_TENANT,
            email=DEMO_EMAIL,
            password=self.secrets["demo_password"],
            auth_env=self.environment("auth", "auth"),
            registry_env=self.environment("registry", "registry"),
            report=self._report,
        )

    def _publish(self) -> None:
        """Tell clients on this machine, in one step, that the stack is ready and where."""
        if self._demo is None:
            self._demo = {"base_url": self.base_url}
        self._demo["urls"] = self.urls()
        # Whoever finds a file that a killed launcher has left can tell.
        self._demo["launcher_pid"] = os.getpid()
        self._note_pids()

    def _note_pids(self) -> None:
        pids = self.supervisor.pids()
        self.state.note_processes(pids)
        if self._demo is not None:
            self._demo["pids"] = pids
            self.state.write(self.state.demo_file.name, self._demo)
