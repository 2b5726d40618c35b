"""Agents for ArtCafe PubSub.

`HeartbeatAgent` handles messages by decorated functions; `Client` is the connection underneath, for
programs that want their own loop. Both reconnect by themselves.
"""

from artcafe_agent.agent import HeartbeatAgent
from artcafe_agent.client import Client
from artcafe_agent.errors import (
    AckTimeout,
    ApiError,
    ArtcafeError,
    ClientClosed,
    CommandError,
    ConfigurationError,
    ConnectionLost,
    CredentialsRefused,
    Disconnected,
    KeyFormatError,
    NotConnected,
    OutcomeUnknown,
    ProtocolRefused,
    QuotaExceeded,
    ReplacedError,
    RevokedError,
    SlowConsumerError,
    StoppedError,
    TenantSuspended,
    UnexpectedAnswer,
    Unreachable,
)
from artcafe_agent.keeper import Traffic
from artcafe_agent.keys import AgentKey, fingerprint
from artcafe_agent.protocol import Presence, Published
from artcafe_agent.states import ConnectionState, ReconnectPolicy, StateChange
from artcafe_agent.subscription import Message, Subscription
from artcafe_agent.version import __version__

__all__ = [
    "AckTimeout",
    "AgentKey",
    "ApiError",
    "ArtcafeError",
    "Client",
    "ClientClosed",
    "CommandError",
    "ConfigurationError",
    "ConnectionLost",
    "ConnectionState",
    "CredentialsRefused",
    "Disconnected",
    "HeartbeatAgent",
    "KeyFormatError",
    "Message",
    "NotConnected",
    "OutcomeUnknown",
    "Presence",
    "ProtocolRefused",
    "Published",
    "QuotaExceeded",
    "ReconnectPolicy",
    "ReplacedError",
    "RevokedError",
    "SlowConsumerError",
    "StateChange",
    "StoppedError",
    "Subscription",
    "TenantSuspended",
    "Traffic",
    "UnexpectedAnswer",
    "Unreachable",
    "__version__",
    "fingerprint",
]
