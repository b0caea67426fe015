"""Deaths of workers, for `llmos up`: their nodes tell of them on `telemetry`, in sentences they are said here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log, Place
from llmos.infra.settings import Settings
from llmos.schemas import topics
from llmos.schemas.errors import LlmosError, RecordError
from llmos.schemas.telemetry import TELEMETRY, WorkerDied

log = structlog.get_logger()

AGAIN_SECONDS = 1.0
"""Before another try where the log was away; that is told by its supervisor."""
READ_SECONDS = 5.0
_PLACE = Place(topics.TELEMETRY, 0)


class Deaths:
    """Follows `telemetry` from its end as of the first connection."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._position: int | None = None

    async def tell(self, settings: Settings) -> None:
        """Reports until cancelled, also over outages of the broker."""
        while True:
            try:
                connected = await KafkaLog.connect(settings.kafka, "up")
                try:
                    await self.follow(connected)
                finally:
                    await connected.close()
            except LlmosError as problem:
                log.info("telemetry_away", error=str(problem))
                await asyncio.sleep(AGAIN_SECONDS)

    async def follow(self, connected: Log) -> None:
        """Reports until cancelled, or until the log fails."""
        begin, end = (await connected.begins([_PLACE]))[_PLACE], (await connected.ends([_PLACE]))[_PLACE]
        self._position = end if self._position is None else min(max(self._position, begin), end)
        reader = connected.reader()
        try:
            reader.assign({_PLACE: self._position})
            while True:
                for record in (await reader.read(READ_SECONDS)).get(_PLACE, ()):
                    self._say(record.value)
                self._position = reader.position(_PLACE)
        finally:
            await reader.close()

    def _say(self, value: bytes | None) -> None:
        try:
            message = TELEMETRY.decode(value)
        except RecordError as problem:
            log.warning("telemetry_unreadable", error=str(problem))
            return
        if isinstance(message, WorkerDied):
            self._report(
                f"worker {message.device} (process {message.pid}) ended with {message.reason}; it is started again"
            )
