"""The OpenID Connect issuers whose tokens the platform accepts, as an operator lists them.

The file is a JSON list of objects with the fields of `Issuer`. Amazon Cognito, for example::

    [{"issuer": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEf", "audiences": ["<client id>"],
      "token_uses": ["id", "access"], "client_id": "<client id>"}]

Of several issuers all but one have a ``user_prefix``: what one of them calls its people is not to be mistaken
for what another does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from artcafe_common.ids import is_token

Algorithm = Literal["RS256", "ES256", "EdDSA"]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
# With a colon at the end and none before it, no prefix begins with another one.
UserPrefix = Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,30}:)?\Z")]

FILE_BYTES_MAX = 1024 * 1024


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trusted issuer.

    ``audiences`` are the accepted ``aud`` (or ``client_id``) values, ``token_uses`` those of ``token_use``
    where the issuer has that claim. Without ``jwks_url`` it is taken from the issuer's discovery document.
    ``user_prefix`` stands before each ``sub`` in the ids of the issuer's people. ``tenants`` are those whose
    people the issuer may name by its own tenant and role claims; ``tenant_claims`` lets it name anybody's,
    and is for the platform's own issuer, where its users cannot write them. ``client_id`` and ``scopes`` are
    what a dashboard signs in with.
    """

    issuer: Text
    audiences: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
    algorithms: Annotated[tuple[Algorithm, ...], msgspec.Meta(min_length=1)] = ("RS256", "ES256", "EdDSA")
    token_uses: tuple[Text, ...] = ()
    jwks_url: Text | None = None
    user_prefix: UserPrefix = ""
    tenant_claims: bool = False
    tenants: tuple[str, ...] = ()
    client_id: Text | None = None
    scopes: tuple[Text, ...] = ("openid", "email")

    @property
    def discovery_url(self) -> str:
        """Where the issuer describes itself (OpenID Connect Discovery 1.0, section 4)."""
        return self.issuer.rstrip("/") + "/.well-known/openid-configuration"


class IssuersError(Exception):
    """The file does not list issuers; `problems` has a line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_issuers(path: str, *, allow_http: bool, beside_local: bool = False) -> list[Issuer]:
    """Read and check the file, whose issuers may stand beside the local one. Raises: IssuersError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise IssuersError([f"{path}: {error.strerror}"]) from None
    if len(data) > FILE_BYTES_MAX:
        raise IssuersError([f"{path}: larger than {FILE_BYTES_MAX} bytes"])
    try:
        issuers = msgspec.json.decode(data, type=list[Issuer])
    except msgspec.DecodeError as error:
        raise IssuersError([f"{path}: {error}"]) from None
    except UnicodeDecodeError:
        raise IssuersError([f"{path}: not UTF-8"]) from None
    problems = _problems(issuers, allow_http=allow_http)
    if problems := problems or _identity_problems(issuers, beside_local=beside_local):
        raise IssuersError(problems)
    return issuers


def is_acceptable_url(url: str, *, allow_http: bool) -> bool:
    """Tell whether keys may be fetched from an address: https, and http only on an operator's own machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    schemes = ("https", "http") if allow_http else ("https",)
    return parts.scheme in schemes and bool(host) and parts.username is None


def _problems(issuers: list[Issuer], *, allow_http: bool) -> list[str]:
    problems = [] if issuers else ["it lists no issuer"]
    seen: set[str] = set()
    for number, issuer in enumerate(issuers):
        for field, url in (("issuer", issuer.issuer), ("jwks_url", issuer.jwks_url)):
            if url is not None and not is_acceptable_url(url, allow_http=allow_http):
                problems.append(f"$[{number}].{field} is no https address: {url}")
        if issuer.issuer in seen:
            problems.append(f"$[{number}].issuer is listed twice: {issuer.issuer}")
        seen.add(issuer.issuer)
    return problems


def _identity_problems(issuers: list[Issuer], *, beside_local: bool) -> list[str]:
    """Tell where people of two issuers could be taken for one another, or an issuer for too much."""
    problems = []
    bare = "the local issuer" if beside_local else None
    seen: set[str] = set()
    for number, issuer in enumerate(issuers):
        prefix = issuer.user_prefix
        if not prefix and bare is not None:
            problems.append(
                f"$[{number}].user_prefix is missing: only one issuer has none, and that is {bare}"
            )
        elif not prefix:
            bare = f"$[{number}]"
        elif prefix in seen:
            problems.append(f"$[{number}].user_prefix is another issuer's too: {prefix}")
        seen.add(prefix)
        problems += [
            f"$[{number}].tenants names no tenant: {tenant_id}"
            for tenant_id in issuer.tenants
            if not is_token(tenant_id)
        ]
        if issuer.tenant_claims and (prefix or issuer.tenants):
            problems.append(
                f"$[{number}].tenant_claims is for all tenants: leave it out and list some in tenants"
            )
    return problems
