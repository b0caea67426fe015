"""A ledger on the session's Redis under names of its own, and the hands that its tests need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis as Client

from llmos.infra.ledger.keys import Keys
from llmos.infra.ledger.redis import RedisLedger
from llmos.infra.settings import Settings

SHIFT = """
-- Moves everything the ledger has written `ARGV[1]` seconds into the past: to it, as if the clock stood later.
local seconds = tonumber(ARGV[1])
for _, ends in ipairs({KEYS[2], KEYS[6]}) do
    for _, id in ipairs(redis.call('ZRANGE', ends, 0, -1)) do redis.call('ZINCRBY', ends, -seconds, id) end
end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local head, at, tail = string.match(all[i + 1], '^(%a+:%d+:)([%d.]+)(:.*)$')
    redis.call('HSET', KEYS[1], all[i], head .. string.format('%.6f', tonumber(at) - seconds) .. tail)
end
local spent = redis.call('HGETALL', KEYS[5])
for i = 1, #spent, 2 do
    local s = cmsgpack.unpack(spent[i + 1])
    s[3] = s[3] - seconds
    redis.call('HSET', KEYS[5], spent[i], cmsgpack.pack(s))
end
for i = 7, #KEYS do
    local began = redis.call('HGET', KEYS[i], '')
    if began then redis.call('HSET', KEYS[i], '', string.format('%.6f', tonumber(began) - seconds)) end
    local left = redis.call('PTTL', KEYS[i]) - seconds * 1000
    if began and left <= 0 then redis.call('DEL', KEYS[i]) elseif began then redis.call('PEXPIRE', KEYS[i], left) end
end
return 0
"""


@dataclass
class Hands:
    """The ledger, and a plain client beside it."""

    ledger: RedisLedger
    client: Client
    keys: Keys

    async def pass_time(self, seconds: float) -> None:
        keys = [*self.keys.quotas, self.keys.lease_ends, *await self._nonces()]
        await self.client.eval(SHIFT, len(keys), *keys, str(seconds))  # type: ignore[misc]

    async def flush(self) -> None:
        await self.client.delete(*self.keys, *await self._nonces())

    async def _nonces(self) -> list[bytes]:
        return [key async for key in self.client.scan_iter(f"{self.keys.nonces}:*")]


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Hands]:
    """A ledger and its hands; its keys are removed afterwards."""
    keys = Keys.under(settings.redis.prefix)
    client = Client.from_url(settings.redis.url, driver_info=None)
    ledger = await RedisLedger.connect(settings.redis)
    try:
        yield Hands(ledger, client, keys)
    finally:
        await ledger.close()
        await Hands(ledger, client, keys).flush()
        await client.aclose()
