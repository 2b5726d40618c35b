"""Configuration of the auth service."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from artcafe_auth.issuers import Issuer, IssuersError, read_issuers
from artcafe_common.config import ConfigError, SharedConfig, describe

PREFIX = "AUTH_"


class AuthConfig(SharedConfig, frozen=True, kw_only=True):
    """Settings of auth; what depends on each other is checked when it is made."""

    http_host: Annotated[str, describe("Address on which HTTP is served")] = "127.0.0.1"
    http_port: Annotated[int, describe("Port on which HTTP is served"), Meta(ge=0, le=65535)] = 8101
    issuers_file: Annotated[
        str | None, describe("JSON file with the OpenID Connect issuers whose tokens are accepted")
    ] = None
    issuers_refresh_seconds: Annotated[
        int, describe("How often the issuers' keys are fetched"), Meta(ge=10, le=86_400)
    ] = 300
    local_issuer: Annotated[
        bool, describe("Sign people in with e-mail and password; refused in production")
    ] = False
    local_issuer_url: Annotated[
        str | None,
        describe("`iss` of the local issuer's tokens, e.g. `http://127.0.0.1:8080/api/v1/auth`"),
    ] = None
    local_issuer_key_file: Annotated[
        str | None,
        describe(
            "PEM file with the local issuer's private key; created where it is missing, for its owner only"
        ),
    ] = None
    local_audience: Annotated[str, describe("`aud` of the local issuer's tokens")] = "artcafe"
    local_token_seconds: Annotated[
        int, describe("How long the local issuer's tokens are valid"), Meta(ge=60, le=86_400)
    ] = 3600
    address_rate: Annotated[
        int,
        describe("Challenges, and apart from them proofs, a minute from one client address; 0: no limit"),
        Meta(ge=0),
    ] = 3000
    agent_rate: Annotated[
        int,
        describe(
            "Challenges a minute for one agent from one address. Beyond a sixth of it, which each address has"
            " to itself, all addresses share ten times as many; 0: no limit"
        ),
        Meta(ge=0),
    ] = 60
    login_rate: Annotated[
        int,
        describe(
            "Attempts to sign in a minute from one address; and for one e-mail from all addresses, beyond a"
            " sixth of it that each address has to itself; 0: no limit"
        ),
        Meta(ge=0),
    ] = 30

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work. Raises: ConfigError."""
        super().__post_init__()
        problems = [*self._local_problems(), *self._issuers_problems()]
        if problems:
            raise ConfigError(problems)

    @property
    def development(self) -> bool:
        """Whether what is meant for one machine only is allowed."""
        return self.environment == "development"

    def issuers(self) -> list[Issuer]:
        """Read the trusted issuers, none where no file is named. Raises: IssuersError."""
        if self.issuers_file is None:
            return []
        return read_issuers(self.issuers_file, allow_http=self.development, beside_local=self.local_issuer)

    def _local_problems(self) -> list[str]:
        if not self.local_issuer:
            return []
        problems = []
        if not self.development:
            problems.append("AUTH_LOCAL_ISSUER is refused when ENVIRONMENT is production")
        if self.local_issuer_url is None:
            problems.append("AUTH_LOCAL_ISSUER_URL is not set: the local issuer needs it")
        elif urlsplit(self.local_issuer_url).scheme not in ("http", "https"):
            problems.append("AUTH_LOCAL_ISSUER_URL is not valid: expected an http or https address")
        if self.local_issuer_key_file is None:
            problems.append("AUTH_LOCAL_ISSUER_KEY_FILE is not set: the local issuer needs it")
        return problems

    def _issuers_problems(self) -> list[str]:
        if self.issuers_file is None:
            if self.local_issuer:
                return []
            return ["AUTH_ISSUERS_FILE is not set: without an issuer nobody can sign in"]
        try:
            issuers = self.issuers()
        except IssuersError as error:
            return [f"AUTH_ISSUERS_FILE is not valid: {problem}" for problem in error.problems]
        if self.local_issuer and any(issuer.issuer == self.local_issuer_url for issuer in issuers):
            return ["AUTH_ISSUERS_FILE is not valid: it names the local issuer"]
        return []
