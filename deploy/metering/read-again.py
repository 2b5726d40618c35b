"""Make metering read the stream of usage from its beginning again, after Valkey was restored from a backup.

What has been counted is not counted again. Run it in metering's container, where its login to NATS is:
docker compose exec -T metering python - < deploy/metering/read-again.py
"""

import asyncio
import os
from pathlib import Path

import nats


async def main() -> None:
    """Delete metering's consumer of the stream; metering makes it anew."""
    bus = await nats.connect(
        os.environ["NATS_URL"],
        user=os.environ["NATS_USER"],
        password=Path(os.environ["NATS_PASSWORD_FILE"]).read_text().strip(),
        inbox_prefix=b"_INBOX_metering",
    )
    await bus.jetstream().delete_consumer("USAGE", "metering")
    await bus.close()
    print("metering reads the stream from its beginning")


asyncio.run(main())
