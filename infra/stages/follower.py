"""Keeps a small table up to date from a compacted topic: read to its end at start, followed live afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from llmos.infra.log.port import Place, Reader, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.catching_up import read_to_end
from llmos.schemas.base import Codec
from llmos.schemas.errors import RecordError

log = structlog.get_logger()


class Table:
    """The latest value of every key of a one-partition compacted topic.

    `changed` hears of each that is taken, with None of one that is deleted. `accepts` says whether a value is to be taken:
    what it does not accept changes nothing.
    """

    def __init__(
        self,
        topic: str,
        codec: Codec,
        changed: Callable[[str, Any | None], None] | None = None,
        accepts: Callable[[str, Any], bool] | None = None,
    ) -> None:
        self.place = Place(topic, 0)
        self._codec = codec
        self._changed = changed
        self._accepts = accepts
        self._rows: dict[str, Any] = {}

    @property
    def rows(self) -> Mapping[str, Any]:
        """Key → message."""
        return self._rows

    def take(self, record: Record) -> None:
        """Applies one record: a value replaces, none deletes; what cannot be read is logged and left out."""
        key = (record.key or b"").decode(errors="replace")
        try:
            value = None if record.value is None else self._codec.decode(record.value)
        except RecordError as problem:
            log.warning("table_record_unreadable", topic=self.place.topic, offset=record.offset, error=str(problem))
            return
        self.put(key, value)

    def put(self, key: str, value: Any | None) -> None:
        """Applies a value, or a deletion, as if it was read now."""
        if value is None:
            self._rows.pop(key, None)
        elif self._accepts is None or self._accepts(key, value):
            self._rows[key] = value
        else:
            return
        if self._changed is not None:
            self._changed(key, value)


class Follower:
    """Follows tables with one reader of its own."""

    def __init__(self, ctx: Context, tables: list[Table]) -> None:
        self._ctx = ctx
        self._tables = {table.place: table for table in tables}

    async def load(self) -> dict[Place, int]:
        """Reads the tables to their ends as of now; gives where to go on."""
        begins = await self._ctx.log.begins(list(self._tables))
        return await read_to_end(self._ctx, begins, self.take)

    def take(self, record: Record) -> None:
        """Applies one record to its table."""
        self._tables[record.place].take(record)

    async def follow(self, starts: Mapping[Place, int]) -> None:
        """Applies what comes, until cancelled."""
        reader: Reader = self._ctx.log.reader()
        try:
            reader.assign(starts)
            while True:
                for records in (await reader.read(timeout=5.0)).values():
                    for record in records:
                        self.take(record)
        finally:
            await reader.close()


async def follow_from_end(ctx: Context, place: Place, take: Callable[[Record], None]) -> None:
    """Feeds `take` with what is appended to `place` from now on, until cancelled."""
    reader: Reader = ctx.log.reader()
    try:
        reader.assign(await ctx.log.ends([place]))
        while True:
            for records in (await reader.read(timeout=5.0)).values():
                for record in records:
                    take(record)
    finally:
        await reader.close()
