"""Settings on the launcher's command line: each reaches who has it, and none is lost silently."""

import pytest

from artcafe_devstack.process import StackError
from artcafe_devstack.settings import settings_from


def test_a_setting_goes_to_those_who_have_it() -> None:
    """By its name, or by the process that is named with it; a secret may be named as a file, too."""
    given = [
        "LOG_LEVEL=DEBUG",
        "GATEWAY_MAX_CONNECTIONS=5",
        "gateway-2:GATEWAY_MAX_CONNECTIONS=6",
        "auth:LOG_LEVEL=ERROR",
        "NATS_PASSWORD_FILE=/x=y",
        "AWS_MAX_ATTEMPTS=2",
    ]
    assert settings_from(given, 2) == {
        "*": {"LOG_LEVEL": "DEBUG", "NATS_PASSWORD_FILE": "/x=y", "AWS_MAX_ATTEMPTS": "2"},
        "gateway": {"GATEWAY_MAX_CONNECTIONS": "5"},
        "gateway-2": {"GATEWAY_MAX_CONNECTIONS": "6"},
        "auth": {"LOG_LEVEL": "ERROR"},
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("FOO=1", "FOO is not a setting; docs/configuration.md"),
        ("LOG_LEVL=DEBUG", "LOG_LEVL is not a setting; did you mean LOG_LEVEL?"),
        ("GATEWAY_MAX_CONECTIONS=1", "did you mean GATEWAY_MAX_CONNECTIONS?"),
        (
            "gatway:LOG_LEVEL=DEBUG",
            "there is no gatway; there are auth, registry, gateway, metering, gateway-1",
        ),
        ("gateway-3:LOG_LEVEL=DEBUG", "there is no gateway-3"),
        ("auth:GATEWAY_MAX_CONNECTIONS=1", "is not a setting of auth, but of gateway"),
        ("LOG_LEVEL", "takes NAME=VALUE"),
        ("=1", "takes NAME=VALUE"),
    ],
)
def test_what_would_have_no_effect_is_refused(given: str, words: str) -> None:
    """A misspelt name, a process that there is not, a setting of another service."""
    with pytest.raises(StackError) as refused:
        settings_from([given], 2)
    assert words in str(refused.value)
