"""The configuration: what depends on each other is checked before anything starts."""

import json
from pathlib import Path

import pytest

from artcafe_auth.config import PREFIX, AuthConfig
from artcafe_common.config import ConfigError, load

ISSUER = {"issuer": "https://id.example.com/pool", "audiences": ["client"]}
ACME = {"issuer": "https://login.acme.example", "audiences": ["client"], "user_prefix": "acme:"}


def _load(**environment: str) -> AuthConfig:
    return load(AuthConfig, PREFIX, {"NATS_URL": "nats://127.0.0.1:4222"} | environment)


def _problems(**environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _load(**environment)
    return caught.value.problems


def _local(**environment: str) -> dict[str, str]:
    return {
        "ENVIRONMENT": "development",
        "AUTH_LOCAL_ISSUER": "true",
        "AUTH_LOCAL_ISSUER_URL": "http://127.0.0.1:8080/api/v1/auth",
        "AUTH_LOCAL_ISSUER_KEY_FILE": "key.pem",
    } | environment


def _file(folder: Path, content: object) -> str:
    path = folder / "issuers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_local_issuer_is_enough() -> None:
    """On one machine no other issuer is needed."""
    config = _load(**_local())
    assert config.development
    assert config.issuers() == []
    assert config.local_audience == "artcafe"


def test_local_issuer_is_refused_in_production() -> None:
    """Also where ENVIRONMENT is not set at all."""
    expected = ["AUTH_LOCAL_ISSUER is refused when ENVIRONMENT is production"]
    assert _problems(**_local(ENVIRONMENT="production")) == expected
    assert _problems(**_local(ENVIRONMENT="")) == expected


def test_local_issuer_needs_its_settings() -> None:
    """What is missing is named, all of it."""
    problems = _problems(ENVIRONMENT="development", AUTH_LOCAL_ISSUER="true")
    assert [problem.split()[0] for problem in problems] == [
        "AUTH_LOCAL_ISSUER_URL",
        "AUTH_LOCAL_ISSUER_KEY_FILE",
    ]
    assert "AUTH_LOCAL_ISSUER_URL is not valid" in _problems(**_local(AUTH_LOCAL_ISSUER_URL="here"))[0]


def test_an_issuer_is_needed() -> None:
    """Without any nobody could sign in."""
    assert _problems() == ["AUTH_ISSUERS_FILE is not set: without an issuer nobody can sign in"]


def test_issuers_are_read(tmp_path: Path) -> None:
    """A file with issuers is enough, in production too."""
    config = _load(AUTH_ISSUERS_FILE=_file(tmp_path, [ISSUER]))
    (issuer,) = config.issuers()
    assert issuer.audiences == ("client",)
    assert issuer.algorithms == ("RS256", "ES256", "EdDSA")
    assert not issuer.tenant_claims
    assert issuer.discovery_url == "https://id.example.com/pool/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("not json", "issuers.json"),
        ({}, "Expected `array`"),
        ([], "lists no issuer"),
        ([{"issuer": "https://a.example"}], "audiences"),
        ([ISSUER | {"audiences": []}], "length >= 1"),
        ([ISSUER | {"audience": "client"}], "audience"),
        ([ISSUER | {"algorithms": ["HS256"]}], "HS256"),
        ([ISSUER | {"algorithms": ["none"]}], "none"),
        ([ISSUER, ISSUER], "listed twice"),
        ([ISSUER | {"issuer": "http://id.example.com"}], "no https address"),
        ([ISSUER | {"jwks_url": "http://id.example.com/keys"}], "no https address"),
        ([ISSUER | {"jwks_url": "file:///etc/passwd"}], "no https address"),
        ([ISSUER | {"issuer": "https://user:password@id.example.com"}], "no https address"),
        ([ISSUER | {"issuer": "https://[broken"}], "no https address"),
        ([ISSUER, ACME | {"user_prefix": ""}], "$[1].user_prefix is missing"),
        ([ISSUER, ACME, ACME | {"issuer": "https://b.example"}], "$[2].user_prefix is another issuer's too"),
        ([ACME | {"tenant_claims": True}], "$[0].tenant_claims is for all tenants"),
        ([ISSUER | {"tenant_claims": True, "tenants": ["t1"]}], "$[0].tenant_claims is for all tenants"),
        ([ACME | {"tenants": ["a.b"]}], "$[0].tenants names no tenant: a.b"),
        *(
            ([ACME | {"user_prefix": prefix}], "user_prefix")
            for prefix in ("acme", ":", "a:b:", "A:", "-a:", "a:\n", "#a:", "a" * 32 + ":")
        ),
    ],
)
def test_wrong_issuers_are_told(content: object, told: str, tmp_path: Path) -> None:
    """Each fault of the file is a problem of the setting that names it."""
    (problem,) = _problems(AUTH_ISSUERS_FILE=_file(tmp_path, content))
    assert problem.startswith("AUTH_ISSUERS_FILE is not valid: ")
    assert told in problem


def test_issuers_are_told_apart_by_prefixes(tmp_path: Path) -> None:
    """Any number of issuers is fine where all but one have a prefix."""
    other = ACME | {"issuer": "https://b.example", "user_prefix": "b-2:"}
    config = _load(AUTH_ISSUERS_FILE=_file(tmp_path, [ACME | {"tenants": ["acme"]}, ISSUER, other]))
    assert [issuer.user_prefix for issuer in config.issuers()] == ["acme:", "", "b-2:"]
    assert [issuer.tenants for issuer in config.issuers()] == [("acme",), (), ()]


def test_issuers_beside_the_local_one_have_prefixes(tmp_path: Path) -> None:
    """The local issuer is the one without."""
    (problem,) = _problems(**_local(AUTH_ISSUERS_FILE=_file(tmp_path, [ISSUER])))
    assert problem.endswith("only one issuer has none, and that is the local issuer")
    assert len(_load(**_local(AUTH_ISSUERS_FILE=_file(tmp_path, [ACME]))).issuers()) == 1


def test_missing_file_is_told(tmp_path: Path) -> None:
    """A file that is not there is no empty list."""
    (problem,) = _problems(AUTH_ISSUERS_FILE=str(tmp_path / "none.json"))
    assert "No such file" in problem


def test_http_is_for_development(tmp_path: Path) -> None:
    """On one machine an issuer may be had without TLS."""
    path = _file(tmp_path, [{"issuer": "http://127.0.0.1:9000", "audiences": ["client"]}])
    assert len(_load(ENVIRONMENT="development", AUTH_ISSUERS_FILE=path).issuers()) == 1
    assert _problems(ENVIRONMENT="production", AUTH_ISSUERS_FILE=path)


def test_local_issuer_is_not_listed(tmp_path: Path) -> None:
    """Two sources of keys for one issuer would be one too many."""
    url = "http://127.0.0.1:8080/api/v1/auth"
    path = _file(tmp_path, [{"issuer": url, "audiences": ["artcafe"]}])
    assert "local issuer" in _problems(**_local(AUTH_ISSUERS_FILE=path))[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_HTTP_PORT", "65536"),
        ("AUTH_AGENT_RATE", "-1"),
        ("AUTH_LOCAL_TOKEN_SECONDS", "5"),
        ("AUTH_ISSUERS_REFRESH_SECONDS", "0"),
        ("AUTH_LOCAL_ISUER", "true"),
    ],
)
def test_wrong_setting_is_named(name: str, value: str) -> None:
    """A value out of range and a misspelt name stop the start."""
    assert any(problem.startswith(name) for problem in _problems(**_local(**{name: value})))
