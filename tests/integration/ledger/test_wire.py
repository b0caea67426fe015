"""The connection to Redis: bounded, safe to cancel, its replies checked, away for all and back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from llmos.infra.ledger import wire as module
from llmos.infra.ledger.keys import Keys
from llmos.infra.ledger.port import LedgerAway
from llmos.infra.ledger.scripts import PROBE, USE
from llmos.infra.ledger.wire import Wire
from llmos.infra.settings import Settings
from tests.integration.ledger.conftest import Hands

PATIENCE = 10.0


class Proxy:
    """Stands before Redis: `replies` cleared holds back what Redis says, `asked` is set by each request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._redis = (parts.path,) if parts.scheme == "unix" else (parts.hostname, parts.port or 6379)
        self._links: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.replies = asyncio.Event()
        self.replies.set()
        self.asked = asyncio.Event()
        self.requests = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def cut(self) -> None:
        """Closes all links, as a server's idle time-out or a restart does."""
        for writer in self._links:
            writer.close()
        self._links.clear()

    def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.append(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ = asyncio.open_unix_connection if len(self._redis) == 1 else asyncio.open_connection
        redis_reader, redis_writer = await open_(*self._redis)  # type: ignore[operator]
        try:
            async with asyncio.TaskGroup() as tasks:
                back = tasks.create_task(self._back(redis_reader, writer))
                while data := await reader.read(65536):
                    self.requests += 1
                    self.asked.set()
                    redis_writer.write(data)
                back.cancel()
        finally:
            redis_writer.close()
            writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.replies.wait()
            writer.write(data)


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """A proxy before the session's Redis."""
    async with Proxy(settings.redis.url) as running:
        yield running


async def opened(url: str, keys: Keys, timeout: float) -> Wire:
    """A wire that has just answered."""
    wire = Wire(url, timeout, keys.probe)
    await wire.open()
    return wire


async def is_back(wire: Wire) -> None:
    """Returns when the probe has succeeded."""
    assert wire._probing is not None
    await asyncio.wait_for(asyncio.shield(wire._probing), PATIENCE)


async def test_a_cancelled_call_never_answers_the_next(bench: Hands, proxy: Proxy) -> None:
    """Calls cancelled while their reply is on its way (redis-py #2665): every later call gets its own reply."""
    wire = await opened(proxy.url, bench.keys, PATIENCE)
    try:
        for _ in range(100):
            proxy.replies.clear()
            proxy.asked.clear()
            call = asyncio.create_task(wire.run(USE, bench.keys.credits))
            await asyncio.wait_for(proxy.asked.wait(), PATIENCE)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            proxy.replies.set()
            assert await wire.run(PROBE, [bench.keys.probe]) == []
            assert len(await wire.run(USE, bench.keys.credits)) == 6
    finally:
        await wire.close()


async def test_a_reply_of_another_call_is_not_taken() -> None:
    """Whatever answers with another nonce is not believed."""

    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b"*2\r\n$8\r\nsomebody\r\n:5\r\n")
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    wire = Wire(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", PATIENCE, "probe")
    try:
        with pytest.raises(LedgerAway, match="another call"):
            await wire.open()
    finally:
        await wire.close()
        await asyncio.wait_for(ended.wait(), PATIENCE)
        server.close()


async def test_a_server_that_hangs_costs_one_time_out(
    bench: Hands, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call waits for the time-out; the others are told at once, without a request, until it is back."""
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)
    wire = await opened(proxy.url, bench.keys, 0.05)
    try:
        proxy.replies.clear()
        with pytest.raises(LedgerAway, match="TimeoutError"):
            await wire.run(USE, bench.keys.credits)
        for _ in range(50):  # without a wait in between: the probe has no chance to ask either
            before = proxy.requests
            with pytest.raises(LedgerAway):
                await wire.run(USE, bench.keys.credits)
            assert proxy.requests == before
        proxy.replies.set()
        await is_back(wire)
        assert len(await wire.run(USE, bench.keys.credits)) == 6
    finally:
        await wire.close()


async def test_a_connection_closed_while_idle_costs_nothing(bench: Hands, proxy: Proxy) -> None:
    """A server may close idle connections; the next call opens another."""
    wire = await opened(proxy.url, bench.keys, PATIENCE)
    try:
        proxy.cut()
        while not await wire._connection.can_read():  # noqa: ASYNC110
            await asyncio.sleep(0)  # until the loop has seen the end of the connection
        assert len(await wire.run(USE, bench.keys.credits)) == 6
    finally:
        await wire.close()


async def test_a_server_that_takes_no_writes_is_away(bench: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full server answers pings and is of no use; when it has room again, it is back."""
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)
    pool = bench.client.connection_pool.connection_kwargs
    wire = await opened(f"redis://{pool['host']}:{pool['port']}/{pool.get('db') or 0}", bench.keys, PATIENCE)
    try:
        await bench.client.config_set("maxmemory", "1")
        try:
            with pytest.raises(LedgerAway, match=r"OOM|memory"):
                await wire.run(PROBE, [bench.keys.probe])
        finally:
            await bench.client.config_set("maxmemory", "0")
        await is_back(wire)
        assert await wire.run(PROBE, [bench.keys.probe]) == []
    finally:
        await wire.close()


async def test_close_ends_a_probe(bench: Hands, proxy: Proxy) -> None:
    """A wire closed while it is away leaves no task behind; closed twice it is closed, and later calls find it away."""
    wire = await opened(proxy.url, bench.keys, 0.05)
    proxy.replies.clear()
    with pytest.raises(LedgerAway):
        await wire.run(USE, bench.keys.credits)
    await wire.close()
    await wire.close()
    assert "ledger-probe" not in {task.get_name() for task in asyncio.all_tasks()}
    with pytest.raises(LedgerAway, match="closed"):
        await wire.run(USE, bench.keys.credits)
