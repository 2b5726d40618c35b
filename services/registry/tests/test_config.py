"""What the registry is told by its environment."""

import base64

import pytest

from artcafe_common.config import ConfigError, load, settings_of
from artcafe_registry.config import PREFIX, CommandConfig, RegistryConfig

KEY = base64.b64encode(bytes(range(32))).decode()


def test_least_configuration_is_two_settings() -> None:
    """NATS and the key of the page tokens have no default; everything else has one."""
    config = load(RegistryConfig, PREFIX, {"NATS_URL": "nats://n", "REGISTRY_CURSOR_KEY": KEY})
    assert config.cursor_key_bytes() == bytes(range(32))
    assert (config.http_host, config.http_port) == ("127.0.0.1", 8102)
    assert not config.self_service_tenants
    assert not config.auto_create_channels
    with pytest.raises(ConfigError) as error:
        load(RegistryConfig, PREFIX, {})
    assert sorted(line.split()[0] for line in error.value.problems) == ["NATS_URL", "REGISTRY_CURSOR_KEY"]


@pytest.mark.parametrize("key", ["short", "AAAA", KEY + "AAAA", "%" * 44])
def test_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    """A key of another length or no base64 stops the start, and the message does not hold it."""
    config = load(RegistryConfig, PREFIX, {"NATS_URL": "nats://n", "REGISTRY_CURSOR_KEY": key})
    with pytest.raises(ConfigError) as error:
        config.cursor_key_bytes()
    assert "REGISTRY_CURSOR_KEY" in str(error.value)
    assert key not in str(error.value)
    assert key not in repr(config)


def test_commands_take_the_services_settings_too() -> None:
    """An environment that is good for the service is good for its commands, which need less."""
    names = {setting.variable for setting in settings_of(RegistryConfig, PREFIX)}
    assert names == {setting.variable for setting in settings_of(CommandConfig, PREFIX)}
    assert load(CommandConfig, PREFIX, {}).nats_url == ""
    assert load(CommandConfig, PREFIX, {"REGISTRY_CURSOR_KEY": KEY, "NATS_URL": "n"}).nats_url == "n"
