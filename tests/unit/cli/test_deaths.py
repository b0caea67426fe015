"""`llmos up` tells of workers that died."""

from __future__ import annotations

import asyncio

import pytest

from llmos.cli.deaths import Deaths
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import load
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.telemetry import LiveCounts, WorkerDied

PATIENCE = 20.0


def died(pid: int) -> bytes:
    return encode(WorkerDied(device="n.cpu0", node="n", pid=pid, at=1.0, reason="signal SIGKILL"))


async def write(log: Log, *values: bytes) -> None:
    await log.emit(Place(topics.TELEMETRY, 0), [Out(None, value) for value in values])


async def test_deaths_are_told_once_from_the_start_on() -> None:
    """Not those of before, nor other telemetry; who follows again, after an outage, hears what was missed."""
    log = MemoryBroker(WallClock()).connect("up")
    await ensure_topics(log, load())
    said: asyncio.Queue[str] = asyncio.Queue()
    deaths = Deaths(said.put_nowait)

    async def follow(count: int, *values: bytes) -> list[str]:
        """Follows while `values` are written; gives the first sentences."""
        following = asyncio.create_task(deaths.follow(log))
        while deaths._position is None:  # noqa: ASYNC110  a turn of the loop each, until it has looked at the end
            await asyncio.sleep(0)
        await write(log, *values)
        async with asyncio.timeout(PATIENCE):
            texts = [await said.get() for _ in range(count)]
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        return texts

    other = encode(LiveCounts(at=1.0, term=0, lanes={}, tenants={}))
    await write(log, died(1))
    (first,) = await follow(1, b"\xc1", other, died(2))
    assert first == "worker n.cpu0 (process 2) ended with signal SIGKILL; it is started again"
    await write(log, died(3))
    missed, new = await follow(2, died(4))
    assert "process 3" in missed
    assert "process 4" in new
    assert said.empty()
    await log.close()
