"""What every command works with: the server, who we are there, and where to print."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

from msgspec import UNSET

from artcafe_agent.address import ServerAddress, check_id
from artcafe_agent.cli.exits import NotLoggedIn, UsageError
from artcafe_agent.cli.output import Output
from artcafe_agent.cli.tokens import LoginStore, config_dir
from artcafe_agent.client import Client
from artcafe_agent.errors import ApiError, CredentialsRefused, UnexpectedAnswer
from artcafe_agent.http import Answer, download, request, request_json
from artcafe_agent.protocol import Presence
from artcafe_agent.states import ReconnectPolicy

TENANT_VARIABLE = "ARTCAFE_TENANT"
AGENT_VARIABLE = "ARTCAFE_AGENT"
KEY_VARIABLE = "ARTCAFE_KEY"


@dataclass(frozen=True)
class Context:
    """One run of the command line."""

    address: ServerAddress
    tenant: str | None
    timeout: float
    out: Output

    @classmethod
    def of(cls, args: argparse.Namespace) -> Context:
        """Return the context that the common options ask for."""
        tenant = args.tenant or os.environ.get(TENANT_VARIABLE) or None
        return cls(
            ServerAddress.parse(args.server),
            check_id(tenant, "tenant") if tenant is not None else None,
            args.timeout,
            Output(args.json),
        )

    @property
    def server(self) -> str:
        """The server's address, as logins are filed under."""
        return str(self.address)

    @cached_property
    def logins(self) -> LoginStore:
        """The person's logins."""
        return LoginStore(config_dir())

    @property
    def token(self) -> str:
        """The person's token for the server."""
        return self.logins.token(self.server)

    @contextmanager
    def as_person(self) -> Iterator[None]:
        """Say what to do where the server does not accept the person's token.

        Raises:
            NotLoggedIn: It did not.
        """
        try:
            yield
        except (ApiError, CredentialsRefused) as refusal:
            if isinstance(refusal, ApiError) and refusal.code != "unauthenticated":
                raise
            raise NotLoggedIn(f"{refusal}: {self.logins.cure(self.server)}") from refusal

    def call(
        self,
        method: str,
        *segments: str,
        query: Mapping[str, str | int | None] | None = None,
        body: Any = UNSET,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Make one REST call as the person who is logged in, and return the decoded answer.

        Raises:
            NotLoggedIn: Nobody is, or not any more.
            ApiError: The server refused.
            UnexpectedAnswer: What answered is no ArtCafe server.
        """
        given = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if self.tenant is not None:
            given["X-Tenant-Id"] = self.tenant
        url = self.address.api(*segments, query=query)
        with self.as_person():
            answer = request_json(method, url, body=body, headers=given, timeout=self.timeout)
        if answer is None:
            return {}
        if not isinstance(answer, dict):
            raise UnexpectedAnswer(f"{self.server} answers, but not as an ArtCafe server")
        return answer

    def download(self, into: BinaryIO, *segments: str, query: Mapping[str, Any]) -> Mapping[str, str]:
        """Write the answer to one REST call, as the person who is logged in, into a file; return its headers.

        Raises:
            NotLoggedIn: Nobody is, or not any more.
            ApiError: The server refused.
            Unreachable: It did not answer to the end.
        """
        given = {"Authorization": f"Bearer {self.token}"}
        if self.tenant is not None:
            given["X-Tenant-Id"] = self.tenant
        url = self.address.api(*segments, query=query)
        with self.as_person():
            return download(url, into, headers=given, timeout=self.timeout)

    def ask(self, method: str, *segments: str, body: Any = UNSET) -> Answer:
        """Make one REST call as nobody in particular."""
        return request(method, self.address.api(*segments), body=body, timeout=self.timeout)

    def client(self, args: argparse.Namespace, *, stay: bool) -> Client:
        """Return a client for the agent that the options name; ``stay`` reconnects after breaks.

        Raises:
            UsageError: The key or the tenant is not named.
        """
        key = args.key or os.environ.get(KEY_VARIABLE)
        if key is None:
            raise UsageError("--key is needed to act as an agent")
        if self.tenant is None:
            raise UsageError("--tenant is needed to act as an agent")
        return Client(
            base_url=self.server,
            tenant_id=self.tenant,
            agent_id=args.agent,
            private_key_path=key,
            reconnect=ReconnectPolicy(enabled=stay),
            command_timeout=self.timeout,
            connect_timeout=self.timeout,
            presence=Presence(status="online") if stay else None,
        )
