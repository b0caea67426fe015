"""The ledger in Redis (6.2 or later, or Valkey): every step is one script, so that counts never part from their entries."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import msgspec
import structlog

from llmos.infra.ledger import scripts
from llmos.infra.ledger.keys import Keys, device_of, resident_field
from llmos.infra.ledger.port import Hold, LaneUse, LedgerAway, Limits
from llmos.infra.ledger.wire import Wire
from llmos.infra.settings.tree import Redis
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import LANES, Lane
from llmos.schemas.telemetry import Residency

log = structlog.get_logger()

CHUNK = 1000
"""Holds in one script at most: a few milliseconds during which Redis does nothing else."""

_encode = msgspec.msgpack.Encoder().encode
_resident = msgspec.msgpack.Decoder(Residency)


class RedisLedger:
    """Keeps the port `Ledger`. Made by `connect`."""

    def __init__(self, wire: Wire, keys: Keys) -> None:
        self._wire = wire
        self._keys = keys

    @staticmethod
    async def connect(redis: Redis) -> RedisLedger:
        """A ledger that has just answered.

        Raises:
            BadSetting: `redis.url` is empty or not an address of Redis.
            LedgerAway: it cannot be reached, or takes no writes.
        """
        if not redis.url:
            raise BadSetting(setting="redis.url", problem="it is empty; `llmos up` starts a Redis and sets it")
        keys = Keys.under(redis.prefix)
        try:
            wire = Wire(redis.url, redis.timeout_seconds, keys.probe)
        except ValueError as problem:
            raise BadSetting(setting="redis.url", problem=str(problem)) from None
        try:
            await wire.open()
        except BaseException:
            await wire.close()
            raise
        return RedisLedger(wire, keys)

    async def ensure_policy(self) -> str:
        """The server's `maxmemory-policy`; warns when it may evict keys of the ledger, none of which expires.

        Raises:
            LedgerAway: the server does not say.
        """
        for line in (await self._wire.info("memory")).splitlines():
            name, _, policy = line.partition(":")
            if name == "maxmemory_policy":
                if policy.startswith("allkeys"):
                    log.warning("redis_may_evict", maxmemory_policy=policy, remedy="set maxmemory-policy noeviction")
                return policy
        raise LedgerAway("INFO says no maxmemory_policy")

    async def hold(self, holds: Sequence[Hold], limits: Limits, seconds: float) -> int:
        """Takes credits in order, until one does not fit; gives how many were granted."""
        packed = _encode(({lane: tuple(limit) for lane, limit in limits.lanes.items()}, tuple(limits.overflow)))
        granted = 0
        for some in _chunks(holds):
            reply = await self._wire.run(scripts.HOLD, self._keys.credits, seconds, packed, _pack(some))
            granted += int(reply[0])
            if reply[0] < len(some):
                break
        return granted

    async def release(self, ids: Sequence[str]) -> None:
        """Gives credits back; unknown ids are nothing to it."""
        for start in range(0, len(ids), CHUNK):
            await self._wire.run(scripts.RELEASE, self._keys.credits, _encode(list(ids[start : start + CHUNK])))

    async def use(self) -> dict[Lane, LaneUse]:
        """What is held per lane."""
        reply = await self._wire.run(scripts.USE, self._keys.credits)
        return {lane: LaneUse(reply[2 * i], reply[2 * i + 1]) for i, lane in enumerate(LANES)}

    async def generation(self) -> str | None:
        """The name that `reconcile` wrote; None after the ledger was emptied."""
        (name,) = await self._wire.run(scripts.GENERATION, self._keys.credits)
        return None if name is None else bytes(name).decode()

    async def reconcile(self, live: Sequence[Hold], seconds: float, grace_seconds: float) -> str:
        """Makes the ledger hold what is live; gives the generation, a new one where there was none."""
        fresh = secrets.token_hex(8)
        (name,) = await self._wire.run(
            scripts.RECONCILE, self._keys.credits, seconds, grace_seconds, fresh, _pack(live)
        )
        return bytes(name).decode()

    async def put_residency(self, device: str, incarnation: int, residents: Sequence[Residency]) -> bool:
        """Replaces what `device` has resident; False when a higher incarnation wrote."""
        fields: list[str | bytes] = []
        for resident in residents:
            fields += resident_field(device, resident.model), _encode(resident)
        (written,) = await self._wire.run(scripts.PUT_RESIDENCY, self._keys.cache, device, str(incarnation), *fields)
        return bool(written)

    async def residency(self) -> dict[str, list[Residency]]:
        """What is resident where, as the cache knows it."""
        reply = await self._wire.run(scripts.RESIDENCY, self._keys.cache)
        found: dict[str, list[Residency]] = {}
        for field, packed in zip(reply[::2], reply[1::2], strict=True):
            resident = _resident.decode(packed)
            found.setdefault(device_of(bytes(field).decode(), resident.model), []).append(resident)
        return found

    async def close(self) -> None:
        """Ends the connection; bounded in time."""
        await self._wire.close()


def address(url: str) -> str:
    """host:port or path of a Redis URL, without the password."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


def _chunks(holds: Sequence[Hold]) -> Iterator[Sequence[Hold]]:
    for start in range(0, len(holds), CHUNK):
        yield holds[start : start + CHUNK]


def _pack(holds: Sequence[Hold]) -> bytes:
    return _encode([tuple(hold) for hold in holds])
