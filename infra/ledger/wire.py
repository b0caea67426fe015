"""The connection to Redis: one call at a time, bounded in time, safe to cancel, its reply checked by a nonce.

A reply that nobody waited for must never be taken for the next one's (redis-py #2665, the cause of a known leak between
users): whatever interrupts an exchange, cancellation included, closes the connection, and every reply carries the nonce
of its call. After a failure the ledger is away for everybody at once, without waiting, until a probe of its own, every
half second, succeeds: so a server that hangs slows its callers down once, not each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from llmos.infra.ledger.port import LedgerAway
from llmos.infra.ledger.scripts import PROBE, Script
from llmos.infra.telemetry.metrics import LEDGER_AWAY

log = structlog.get_logger()

PROBE_SECONDS = 0.5
"""Time between attempts to reach a ledger that is away."""
NONCE_BYTES = 8


class Wire:
    """One connection, for one event loop."""

    def __init__(self, url: str, timeout_seconds: float, probe_key: str) -> None:
        """Nothing is connected yet. Raises `ValueError`: `url` is not one of Redis."""
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            # Waits are bounded here, for lock, connection and reply together; redis-py repeats nothing by itself.
            socket_timeout=None,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            # Else redis-py reads its own package's metadata from disk, on the loop.
            driver_info=None,
        )
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._timeout = timeout_seconds
        self._probe_key = probe_key
        self._lock = asyncio.Lock()
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Connects and tries a write. Raises `LedgerAway`."""
        await self._exchange(PROBE, [self._probe_key], ())

    async def run(self, script: Script, keys: Sequence[str], *args: bytes | str | float) -> list[Any]:
        """What `script` gives, without the nonce. Raises `LedgerAway`, within the time-out."""
        if self._closed:
            raise LedgerAway("the ledger was closed")
        if self._probing is not None:
            if not self._probing.done():
                raise LedgerAway("the ledger is away")
            self._probing.result()
            self._probing = None
        try:
            return await self._exchange(script, keys, args)
        except LedgerAway as problem:
            if self._probing is None:
                log.warning("ledger_away", problem=str(problem))
                LEDGER_AWAY.set(1)
                self._probing = asyncio.create_task(self._probe(), name="ledger-probe")
            raise

    async def info(self, section: str) -> str:
        """A section of Redis's INFO. Raises `LedgerAway`."""
        async with self._exclusive("INFO"):
            await self._connection.send_command("INFO", section)
            return bytes(await self._connection.read_response()).decode()

    async def close(self) -> None:
        """Ends the probe and the connection, without waiting for the server; later calls find the ledger away."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
        await self._connection.disconnect(nowait=True)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            with contextlib.suppress(LedgerAway):
                await self._exchange(PROBE, [self._probe_key], ())
                log.info("ledger_back")
                LEDGER_AWAY.set(0)
                return

    async def _exchange(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | float]) -> list[Any]:
        nonce = secrets.token_bytes(NONCE_BYTES)
        async with self._exclusive(script.name):
            reply = await self._evaluate(script, len(keys), *keys, nonce, *args)
            if reply[0] != nonce:
                raise RedisError("the reply belongs to another call")
        return reply[1:]

    @contextlib.asynccontextmanager
    async def _exclusive(self, what: str) -> Any:
        """Lends the connection, fresh or known to be clean; closes it after anything but success."""
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                try:
                    await self._ready()
                    yield
                except BaseException:
                    # Nothing in here waits once the connection is open, so that a second cancel cannot interrupt it.
                    await self._connection.disconnect(nowait=True)
                    raise
        except (RedisError, OSError, TimeoutError) as problem:
            raise LedgerAway(f"{what}: {str(problem) or type(problem).__name__}") from problem

    async def _ready(self) -> None:
        """Connects where needed; a connection with something to read is closed by the server, or not clean."""
        if self._connection.is_connected and await self._connection.can_read():
            await self._connection.disconnect(nowait=True)
        await self._connection.connect()  # type: ignore[no-untyped-call]

    async def _evaluate(self, script: Script, *args: bytes | str | float) -> list[Any]:
        send, read = self._connection.send_command, self._connection.read_response
        await send("EVALSHA", script.sha, *args)
        try:
            reply: list[Any] = await read()
        except NoScriptError:  # a restart, a failover or SCRIPT FLUSH forgets scripts at any time
            await send("SCRIPT LOAD", script.text)
            await read()
            await send("EVALSHA", script.sha, *args)
            reply = await read()
        return reply
