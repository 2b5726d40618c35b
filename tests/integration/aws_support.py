"""What tests of tables, buckets and rights share."""

from __future__ import annotations

from typing import Any

import aioboto3

from artcafe_auth.store import TABLES as AUTH_TABLES
from artcafe_common.tables import TableSpec
from artcafe_devstack.servers import AwsEndpoint
from artcafe_gateway.store import CONNECTIONS
from artcafe_metering.rolled import USAGE_METRICS
from artcafe_registry.store import TABLES as REGISTRY_TABLES

# By the name of a service's container, which is that of its role.
TABLES: dict[str, tuple[TableSpec, ...]] = {
    "auth": AUTH_TABLES,
    "registry": REGISTRY_TABLES,
    "gateway-ws": (CONNECTIONS,),
    "metering": (USAGE_METRICS,),
}


def aws_client(service: Any, aws: AwsEndpoint) -> Any:
    """Open a client of AWS's own library: a context manager."""
    return aioboto3.Session().client(
        service,
        endpoint_url=aws.url,
        region_name=aws.region,
        aws_access_key_id=aws.access_key_id,
        aws_secret_access_key=aws.secret_access_key,
    )
