"""How streams are made sure of; the rest is tested on a real server."""

from __future__ import annotations

from typing import Any, cast

import pytest
from nats.js import JetStreamContext
from nats.js.api import StreamConfig, StreamInfo, StreamState
from nats.js.errors import BadRequestError, NotFoundError

from artcafe_common.streams import USAGE, ensure_stream


class FakeJetStream:
    """A cluster's streams."""

    def __init__(self, existing: StreamConfig | None = None, refusal: int | None = None) -> None:
        self.config = existing
        self.refusal = refusal

    async def stream_info(self, name: str) -> StreamInfo:
        """Return a stream."""
        if self.config is None:
            raise NotFoundError()
        state = StreamState(0, 0, 0, 0, 0)
        return StreamInfo(config=self.config, state=state)

    async def add_stream(self, config: StreamConfig) -> None:
        """Create a stream."""
        if self.refusal is not None:
            raise BadRequestError(code=400, err_code=self.refusal)
        self.config = config

    async def update_stream(self, config: StreamConfig) -> None:
        """Change a stream."""
        self.config = config

    def as_context(self) -> JetStreamContext:
        """Return it as what the code under test takes."""
        return cast(JetStreamContext, self)


async def _ensured(fake: FakeJetStream, **arguments: Any) -> StreamConfig:
    await ensure_stream(fake.as_context(), USAGE, **arguments)
    assert fake.config is not None
    return fake.config


async def test_missing_stream_is_created() -> None:
    """A stream that is not there is made as wanted."""
    config = await _ensured(FakeJetStream(), replicas=3)
    assert (config.name, config.subjects, config.num_replicas) == ("USAGE", ["usage.v1.batch.*"], 3)


async def test_existing_stream_gets_the_wanted_settings() -> None:
    """What another version made is brought to this one's settings."""
    config = await _ensured(FakeJetStream(USAGE.evolve(max_age=60.0, num_replicas=1)), replicas=3)
    assert (config.max_age, config.num_replicas) == (USAGE.max_age, 3)


async def test_existing_stream_keeps_its_replicas() -> None:
    """A service that knows nothing of replicas does not take them away."""
    assert (await _ensured(FakeJetStream(USAGE.evolve(num_replicas=3)))).num_replicas == 3


async def test_somebody_else_being_first_is_no_error() -> None:
    """Two services may create a stream at once."""
    await ensure_stream(FakeJetStream(refusal=10058).as_context(), USAGE)


async def test_stream_that_cannot_be_created_is_an_error() -> None:
    """Any other refusal is told."""
    with pytest.raises(BadRequestError):
        await ensure_stream(FakeJetStream(refusal=10052).as_context(), USAGE)
