"""The ledger in Redis (6.2 or later, or Valkey): every step is one script, so that counts never part from their entries."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog

from llmos.infra.ledger import scripts
from llmos.infra.ledger.keys import Keys, device_of, resident_field
from llmos.infra.ledger.port import (
    NO_QUOTAS,
    QUOTAS,
    Asked,
    Copied,
    Hold,
    LaneUse,
    Lease,
    LedgerAway,
    Limits,
    Outcome,
    OverQuota,
    TenantUse,
)
from llmos.infra.ledger.wire import Wire
from llmos.infra.settings.tree import Redis
from llmos.schemas.catalog import Quotas
from llmos.schemas.errors import BadSetting
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import LANES, Lane
from llmos.schemas.telemetry import Residency

log = structlog.get_logger()

CHUNK = 1000
"""Requests, holds or leases in one script at most: a few milliseconds during which Redis does nothing else."""
NONCES_AT_MOST = 1_000_000
"""Nonces of one tenant in one of its two hashes, about 95 bytes each: beyond it the older ones are forgotten early."""

_encode = msgspec.msgpack.Encoder().encode
_resident = msgspec.msgpack.Decoder(Residency)
_sizes = msgspec.msgpack.Decoder(dict[str, float])
_outcomes = msgspec.msgpack.Decoder(list[int | str | tuple[int, float, float, float]])
_WORDS: Final[tuple[Outcome, ...]] = ("known", "taken", "noted")
_DIGITS = 19
"""Of 2**63 - 1: as text of so many digits numbers are ordered as they are, and Lua's doubles round none of them."""
T = TypeVar("T")


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
        """The server's `maxmemory-policy`; warns when it may evict keys of the ledger, of which only nonces expire.

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

    async def admit(
        self,
        asked: Sequence[Asked],
        limits: Limits,
        seconds: float,
        quotas: Mapping[str, Quotas] = NO_QUOTAS,
        nonce_seconds: float = 0.0,
    ) -> list[Outcome]:
        """Takes requests in order, up to the first that does not fit into its lane; one outcome per request until then."""
        how = (seconds, nonce_seconds, NONCES_AT_MOST, dict(limits.lanes), limits.overflow)
        outcomes: list[Outcome] = []
        for some in _chunks(asked):
            signers = {one.tenant for one in some if one.nonce}
            keys = [*self._keys.quotas, *(key for tenant in signers for key in self._keys.nonces_of(tenant))]
            places = {tenant: len(self._keys.quotas) + 1 + 2 * i for i, tenant in enumerate(signers)}
            theirs = _rows_of_quotas({one.tenant for one in some}, quotas)
            packed = _encode((*how, theirs, _rows_of(some, places)))
            # Not within MessagePack: Redis knows no bytes there.
            nonces = b"".join([one.nonce for one in some])
            (reply,) = await self._wire.run(scripts.ADMIT, keys, packed, nonces)
            found = _outcomes.decode(reply)
            outcomes += map(_outcome, found)
            if len(found) < len(some):
                break
        return outcomes

    async def release(self, ids: Sequence[str]) -> None:
        """Gives credits back; unknown ids are nothing to it."""
        for start in range(0, len(ids), CHUNK):
            await self._wire.run(scripts.RELEASE, self._keys.credits, _encode(list(ids[start : start + CHUNK])))

    async def use(self) -> dict[Lane, LaneUse]:
        """What is held per lane."""
        reply = await self._wire.run(scripts.USE, self._keys.credits)
        return {lane: LaneUse(reply[2 * i], reply[2 * i + 1]) for i, lane in enumerate(LANES)}

    async def tenants(self) -> dict[str, TenantUse]:
        """What tenants hold and have spent."""
        reply = iter(await self._wire.run(scripts.TENANTS, self._keys.quotas))
        return {
            bytes(name).decode(): TenantUse(int(jobs), int(size), float(requests), float(tokens))
            for name, jobs, size, requests, tokens in zip(reply, reply, reply, reply, reply, strict=True)
        }

    async def charge(self, tokens: Mapping[str, int]) -> None:
        """Adds tokens, by tenant, to what is spent."""
        for some in _chunks(list(tokens.items())):
            await self._wire.run(scripts.CHARGE, (self._keys.spent,), _encode(some))

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

    async def lease(self, leases: Sequence[Lease], seconds: float) -> list[bool]:
        """Takes leases, each for itself; False where the task is leased under a higher epoch."""
        taken: list[bool] = []
        for some in _chunks(leases):
            reply = await self._wire.run(scripts.LEASE, self._keys.lent, seconds, _pack_leases(some))
            taken += map(bool, reply)
        return taken

    async def end_leases(self, ended: Sequence[tuple[str, int]]) -> int:
        """Ends leases of that epoch or a lower one; gives how many were not there to be ended."""
        missing = 0
        for some in _chunks(ended):
            packed = _encode([(task, _digits(epoch)) for task, epoch in some])
            (unknown,) = await self._wire.run(scripts.END_LEASES, self._keys.lent, packed)
            missing += int(unknown)
        return missing

    async def leases(self) -> dict[str, int]:
        """How many tasks are leased to each device that has any."""
        reply = await self._wire.run(scripts.LEASES, self._keys.lent)
        return {bytes(device).decode(): int(count) for device, count in zip(reply[::2], reply[1::2], strict=True)}

    async def reconcile_leases(self, live: Sequence[Lease], term: int, seconds: float) -> int:
        """Makes the ledger hold the leases that are live, as far as `term` reaches; gives how many it ended."""
        beyond = _digits(epoch_of(term + 1, 0))
        (ended,) = await self._wire.run(scripts.RECONCILE_LEASES, self._keys.lent, seconds, beyond, _pack_leases(live))
        return int(ended)

    async def put_windows(self, device: str, term: int, windows: Mapping[str, float]) -> bool:
        """Replaces a device's windows, by kind; False when a later scheduler's term wrote."""
        packed = _encode(dict(windows))
        (written,) = await self._wire.run(scripts.PUT_WINDOWS, (self._keys.windows,), device, _digits(term), packed)
        return bool(written)

    async def windows(self) -> dict[str, dict[str, float]]:
        """The windows of all devices, as they were last written."""
        reply = await self._wire.run(scripts.WINDOWS, (self._keys.windows,))
        return {
            bytes(device).decode(): _sizes.decode(bytes(value)[_DIGITS + 1 :])
            for device, value in zip(reply[::2], reply[1::2], strict=True)
        }

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


def _chunks(entries: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(entries), CHUNK):
        yield entries[start : start + CHUNK]


def _digits(number: int) -> str:
    return f"{number:0{_DIGITS}d}"


def _pack_leases(leases: Sequence[Lease]) -> bytes:
    return _encode([(lease.task, lease.device, _digits(lease.epoch), lease.hold) for lease in leases])


def _rows_of_quotas(tenants: set[str], quotas: Mapping[str, Quotas]) -> dict[str, tuple[int, int, float, float, float]]:
    theirs = {tenant: quotas[tenant] for tenant in tenants if tenant in quotas}
    return {
        name: (q.jobs, q.bytes, q.requests_per_second, q.tokens_per_second, q.burst_seconds)
        for name, q in theirs.items()
    }


def _rows_of(asked: Sequence[Asked], places: Mapping[str, int]) -> list[tuple[str | int, ...]]:
    rows: list[tuple[str | int, ...]] = []
    for tenant, hold, nonce, origin, first in asked:
        id_, lane, size = ("", "", 0) if hold is None else hold[:3]
        place = places[tenant] if nonce else 0
        rows.append((id_, lane, size, tenant, len(nonce), place, origin, first or origin))
    return rows


def _outcome(outcome: int | str | tuple[int, float, float, float]) -> Outcome:
    if isinstance(outcome, int):
        return _WORDS[outcome]
    if isinstance(outcome, str):
        return Copied(outcome)
    which, used, limit, seconds = outcome
    return OverQuota(QUOTAS[which - 1], used, limit, seconds)


def _pack(holds: Sequence[Hold]) -> bytes:
    return _encode([tuple(hold) for hold in holds])
