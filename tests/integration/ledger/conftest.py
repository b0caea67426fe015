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
for _, ends in ipairs({KEYS[2], KEYS[5]}) do
    for _, id in ipairs(redis.call('ZRANGE', ends, 0, -1)) do redis.call('ZINCRBY', ends, -seconds, id) end
end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local head, at, tail = string.match(all[i + 1], '^(%a+:%d+:)([%d.]+)(:.*)$')
    redis.call('HSET', KEYS[1], all[i], head .. string.format('%.6f', tonumber(at) - seconds) .. tail)
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
        await self.client.eval(SHIFT, 5, *self.keys.credits, self.keys.lease_ends, str(seconds))  # type: ignore[misc]

    async def flush(self) -> None:
        await self.client.delete(*self.keys)


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
        await client.delete(*keys)
        await client.aclose()
