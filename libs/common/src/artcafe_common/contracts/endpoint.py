"""What a contract between services is: an endpoint (request and reply) or an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)

DEFAULT_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[RequestT, ReplyT]):
    """A request/reply contract: one subject, the types on it, and how long a caller waits (seconds)."""

    subject: str
    request: type[RequestT]
    reply: type[ReplyT]
    timeout: float = DEFAULT_TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class Event(Generic[EventT]):
    """An announcement: a subject with ``{name}`` places, and the type that is published on it."""

    template: str
    payload: type[EventT]

    def subject(self, **names: str) -> str:
        """Fill in the places; a place may be given a wildcard to subscribe to many."""
        return self.template.format(**names)

    @property
    def all_subjects(self) -> str:
        """The wildcard subject under which every event of this kind is found."""
        return self.template.split("{", 1)[0].rstrip(".") + ".>" if "{" in self.template else self.template
