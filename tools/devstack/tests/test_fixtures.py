"""The shared servers that tests get."""

import urllib.request

from artcafe_devstack.servers import AwsEndpoint


def test_servers_are_reachable(nats_url: str, valkey_url: str, aws: AwsEndpoint) -> None:
    """Each fixture gives the address of a running server."""
    assert nats_url.startswith("nats://127.0.0.1:")
    assert valkey_url.startswith("redis://127.0.0.1:")
    with urllib.request.urlopen(f"{aws.url}/_ministack/health") as answer:
        assert answer.status == 200


def test_accounts_differ(aws: AwsEndpoint, aws_url: str) -> None:
    """An account has 12 digits, which is what makes it one of its own."""
    assert aws.url == aws_url
    assert len(aws.access_key_id) == 12
    assert aws.access_key_id.isdigit()
