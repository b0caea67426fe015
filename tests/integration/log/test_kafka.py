"""The log over Kafka keeps the port's promises on a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmos.infra.log.kafka import KafkaLog
from llmos.infra.settings import Settings
from tests.kit.log_bench import Connect
from tests.kit.log_kit import LogKit


class TestKafkaLog(LogKit):
    """The kit, on Kafka."""

    @pytest.fixture
    async def connect(self, settings: Settings) -> AsyncIterator[Connect]:
        """Clients of the session's broker."""
        logs: list[KafkaLog] = []

        async def connect(name: str) -> KafkaLog:
            logs.append(await KafkaLog.connect(settings.kafka, name))
            return logs[-1]

        yield connect
        for log in logs:
            await log.close()
