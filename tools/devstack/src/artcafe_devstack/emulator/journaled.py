"""Make ministack durable: journal what succeeded, and do it again, exactly so, after a crash.

ministack keeps its state in dictionaries of its service modules, and each handler works through a request
without ever waiting, in one turn of the event loop. So the order in which entries are appended right
after the handler returned *is* the order in which the writes were applied, for conditional writes and
transactions too, and a handler given the same requests in the same order makes the same state, provided
that what is not in the request is the same as well: account, region, clock and generated ids. Those are
noted in the entry and given back during the replay.

Reads and refused writes change nothing and are not journaled. Expired items are removed here, as entries
of their own: ministack's background thread would remove them behind the journal's back, and a conditional
write that relied on it would fail in the replay.
"""

import datetime
import logging
import os
import pickle
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ministack.core import responses

from artcafe_devstack.emulator.journal import Journal

logger = logging.getLogger("artcafe.emulator")

_DYNAMODB_READS = ("Get", "Query", "Scan", "BatchGet", "TransactGet", "Describe", "List")
_SCOPED = (responses.AccountScopedDict, responses.AccountRegionScopedDict)
_SNAPSHOT_VERSION = 1

Response = tuple[int, dict[str, str], Any]
Handler = Callable[..., Awaitable[Response]]


class _Context:
    """What a handler gets from outside its request: from the system, or again from an entry."""

    def __init__(self) -> None:
        self.now: float | None = None
        self.replayed: Iterator[str] | None = None
        self.noted: list[str] = []

    def time(self) -> float:
        """Stand in for `time.time`: one moment per request."""
        return time.time() if self.now is None else self.now

    def now_iso(self) -> str:
        """Stand in for ministack's `now_iso`."""
        moment = datetime.datetime.fromtimestamp(self.time(), datetime.UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def new_uuid(self) -> str:
        """Stand in for ministack's `new_uuid`."""
        value = None if self.replayed is None else next(self.replayed, None)
        value = value or str(uuid.uuid4())
        self.noted.append(value)
        return value

    @contextmanager
    def request(self, now: float, replayed: list[str] | None = None) -> Iterator[None]:
        """Hold the clock still for one request, and hand out the ids of a replayed one."""
        self.now, self.noted = now, []
        self.replayed = None if replayed is None else iter(replayed)
        try:
            yield
        finally:
            self.now = self.replayed = None


class _Clock:
    """The `time` module as ministack's services see it."""

    def __init__(self, context: _Context) -> None:
        self.time = context.time

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class JournaledServices:
    """ministack's DynamoDB and S3 modules, with their writes going through a journal."""

    def __init__(self, journal: Journal) -> None:
        with _without_thread("dynamodb-ttl-reaper"):
            from ministack.services import dynamodb, s3
        self._journal = journal
        self._context = _Context()
        self._modules: dict[str, ModuleType] = {"dynamodb": dynamodb, "s3": s3}
        self._handlers: dict[str, Handler] = {}
        for name, module in self._modules.items():
            self._handlers[name] = module.handle_request
            module.time = _Clock(self._context)  # type: ignore[attr-defined]
            module.now_iso = self._context.now_iso  # type: ignore[attr-defined]
            module.new_uuid = self._context.new_uuid  # type: ignore[attr-defined]
        dynamodb.handle_request = self._journaled("dynamodb")
        s3.handle_request = self._journaled("s3")

    def load(self) -> int:
        """Bring back the state of the journal's folder; return the number of entries done again."""
        snapshot = self._journal.snapshot()
        if snapshot is not None:
            self._restore(snapshot)
        s3: Any = self._modules["s3"]
        verify = s3._verify_presigned_sigv4
        s3._verify_presigned_sigv4 = lambda *_: None  # was checked then, and has expired since
        count = 0
        try:
            for header, body in self._journal.entries():
                self._again(header, body)
                count += 1
        finally:
            s3._verify_presigned_sigv4 = verify
        return count

    def compact(self) -> None:
        """Write a snapshot and start a new journal."""
        self._journal.rotate(self._state())

    def expire(self) -> int:
        """Remove the items whose time to live is over; return how many there were."""
        now = time.time()
        removed = _remove_expired(self._modules["dynamodb"], now)
        if removed:
            self._journal.append({"service": "expire", "now": now}, b"")
        return removed

    def _journaled(self, service: str) -> Handler:
        """Return the service's handler with the journal behind it."""
        handle = self._handlers[service]
        is_read = _dynamodb_read if service == "dynamodb" else _s3_read
        context, journal = self._context, self._journal

        async def journaled(
            method: str,
            path: str,
            headers: dict[str, str],
            body: bytes,
            query: dict[str, list[str]],
            **more: Any,
        ) -> Response:
            if is_read(method, headers):
                return await handle(method, path, headers, body, query, **more)
            now, account, region = time.time(), responses.get_account_id(), responses.get_region()
            with context.request(now):
                response = _run_at_once(handle(method, path, headers, body, query, **more))
            if 200 <= response[0] < 300:
                entry = {
                    "service": service,
                    "now": now,
                    "account": account,
                    "region": region,
                    "ids": context.noted,
                    "request": [method, path, _without_secrets(headers), query, more],
                }
                try:
                    journal.append(entry, body)
                except OSError:
                    # The write is in memory only. To go on would build on it; the journal has the last
                    # true state.
                    logger.critical("the journal cannot be written, ending", exc_info=True)
                    os._exit(os.EX_IOERR)
            return response

        return journaled

    def _again(self, header: dict[str, Any], body: bytes) -> None:
        """Do one entry again."""
        if header["service"] == "expire":
            _remove_expired(self._modules["dynamodb"], header["now"])
            return
        responses.set_request_account_id(header["account"])
        responses.set_request_region(header["region"])
        method, path, headers, query, more = header["request"]
        with self._context.request(header["now"], header["ids"]):
            status, _, answer = _run_at_once(
                self._handlers[header["service"]](method, path, headers, body, query, **more)
            )
        if not 200 <= status < 300:
            operation = headers.get("x-amz-target", "")
            logger.error("replay: %s %s %s answered %s: %.300r", method, path, operation, status, answer)

    def _state(self) -> bytes:
        """Return the state of all services as bytes."""
        state = {
            service: {name: value._data for name, value in vars(module).items() if isinstance(value, _SCOPED)}
            for service, module in self._modules.items()
        }
        return pickle.dumps((_SNAPSHOT_VERSION, state), pickle.HIGHEST_PROTOCOL)

    def _restore(self, snapshot: bytes) -> None:
        version, state = pickle.loads(snapshot)
        if version != _SNAPSHOT_VERSION:
            raise ValueError(f"the snapshot has version {version}, this program reads {_SNAPSHOT_VERSION}")
        for service, values in state.items():
            for name, data in values.items():
                # In place: other names, and other modules, refer to the same dictionary.
                getattr(self._modules[service], name)._data.update(data)


def _run_at_once(work: Any) -> Response:
    """Run a coroutine that never waits to its end, so that nothing comes between it and what follows.

    Raises:
        RuntimeError: it did wait; the journal's order would no longer be the order of application.
    """
    try:
        work.send(None)
    except StopIteration as end:
        response: Response = end.value
        return response
    work.close()
    raise RuntimeError("a handler of the emulator waited in the middle of a write")


def _dynamodb_read(_method: str, headers: dict[str, str]) -> bool:
    return headers.get("x-amz-target", "").rpartition(".")[2].startswith(_DYNAMODB_READS)


def _s3_read(method: str, _headers: dict[str, str]) -> bool:
    return method in ("GET", "HEAD")


def _without_secrets(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers without session tokens, which nothing in a replay needs."""
    return {name: value for name, value in headers.items() if name != "x-amz-security-token"}


def _remove_expired(dynamodb: Any, now: float) -> int:
    """Remove every item whose time-to-live attribute is a number in the past."""
    removed = 0
    with dynamodb._lock:
        for (account, region, name), setting in list(dynamodb._ttl_settings.all_items()):
            table = dynamodb._tables.get_scoped(account, region, name)
            if table is None or setting.get("TimeToLiveStatus") != "ENABLED":
                continue
            attribute = setting.get("AttributeName", "")
            for partition, items in list(table["items"].items()):
                for sort, item in list(items.items()):
                    expiry = item.get(attribute, {}).get("N")
                    if expiry is not None and float(expiry) <= now:
                        dynamodb._remove_item(table, partition, sort)
                        removed += 1
    return removed


@contextmanager
def _without_thread(name: str) -> Iterator[None]:
    """Keep a module from starting a certain thread while it is imported."""
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name != name:
            start(thread)

    threading.Thread.start = start_others  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
