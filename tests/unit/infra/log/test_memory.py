"""The log in memory keeps the port's promises."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker, MemoryLog, RandomFaults
from tests.kit.log_bench import Connect
from tests.kit.log_kit import LogKit


async def _connect(broker: MemoryBroker) -> AsyncIterator[Connect]:
    logs: list[MemoryLog] = []

    async def connect(name: str) -> MemoryLog:
        logs.append(broker.connect(name))
        return logs[-1]

    yield connect
    for log in logs:
        await log.close()


class TestMemoryLog(LogKit):
    """The kit, in memory."""

    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        """Clients of one broker without faults."""
        async for connect in _connect(MemoryBroker(WallClock())):
            yield connect


class TestSlowMemoryLog(LogKit):
    """The kit, in memory, with every write and every marker delayed."""

    @pytest.fixture
    async def connect(self) -> AsyncIterator[Connect]:
        """Clients of one broker with delays."""
        faults = RandomFaults(delay=0.0005, marker_delay=0.002)
        async for connect in _connect(MemoryBroker(WallClock(), seed=1, faults=faults)):
            yield connect
