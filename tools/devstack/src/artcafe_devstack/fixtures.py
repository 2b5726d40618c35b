"""A pytest plugin: real servers for integration tests, one of each per test process, started on demand.

Register it with `pytest_plugins = ["artcafe_devstack.fixtures"]`. Tests that kill or freeze a server
start their own with `artcafe_devstack.servers`, since these are shared by all tests of a process.
"""

import random
import time
from collections.abc import Iterator

import pytest

from artcafe_devstack import servers

_DAY_SECONDS = 86_400
# Longer than a test of usage takes on a busy machine.
_TEST_SECONDS = 90.0


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run nats-server with JetStream, open to everyone; tests keep apart by subjects of their own."""
    with servers.nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server.url


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Valkey with its append-only file, as production does (`WAITAOF` works)."""
    with servers.valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def aws_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the emulator of DynamoDB and S3, in memory."""
    with servers.aws_emulator(tmp_path_factory.mktemp("aws"), durable=False) as server:
        yield server.url


@pytest.fixture
def aws(aws_url: str) -> servers.AwsEndpoint:
    """Give a test an empty AWS account of its own; bucket names are shared by all, as on AWS."""
    return servers.AwsEndpoint(aws_url, access_key_id=f"{random.randint(10**11, 10**12 - 1)}")


@pytest.fixture
def aws_environment(aws: servers.AwsEndpoint, monkeypatch: pytest.MonkeyPatch) -> servers.AwsEndpoint:
    """Put the test's account into the environment, for code that reads it from there."""
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    return aws


@pytest.fixture
def one_day() -> None:
    """Begin no test so late that it would end on the next day, and perhaps in the next month (UTC).

    For tests of usage: what they count belongs to one day, and what they ask for is of the running one.
    """
    left = _DAY_SECONDS - time.time() % _DAY_SECONDS
    if left < _TEST_SECONDS:
        time.sleep(left + 0.1)
