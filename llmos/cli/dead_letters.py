"""Reads the topic `dead`, opens letters, and puts their records back where they came from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, Self

import msgspec

from llmos.cli.dead import Entry, Filters, Letters
from llmos.infra.crypto.blobs import open_blob
from llmos.infra.crypto.keyring import SystemKeys
from llmos.infra.log.port import Clock, Log, Out, Place, Reader, Record
from llmos.infra.stages.replays import replay_header, without_replay
from llmos.schemas import topics
from llmos.schemas.base import JSON, encode
from llmos.schemas.dead import DEAD, DeadContents, DeadLetter, DeadReplayed
from llmos.schemas.errors import EnvelopeRejected, RecordError
from llmos.schemas.job import Origin

PLACE = Place(topics.DEAD, 0)
CONTENT_TYPE = "content-type"
_READ_SECONDS = 0.2
_TOGETHER = 100
"""Records read at once: a letter may have 8 MiB."""


class _Whose(msgspec.Struct):
    tenant: str = ""


class Put(NamedTuple):
    """What became of a letter."""

    entry: Entry
    to: Origin | None
    """Where its record was put back; None: it does not open, and was left out."""


async def read_letters(log_: Log, filters: Filters, keys: SystemKeys | None = None, limit: int = 0) -> Letters:
    """The letters that `filters` mean, without their contents; of more than `limit` the last ones (0: all).

    `keys` are needed where the filters name a tenant: a letter that does not open is nobody's, and is counted.
    """
    found = Letters(limit)
    start = (await log_.begins([PLACE]))[PLACE]
    if filters.since:
        start = max(start, (await log_.offsets_at({PLACE: filters.since}))[PLACE])
    end = (await log_.ends([PLACE]))[PLACE]
    async with aclosing(_records(log_, min(start, end), end)) as records:
        async for record in records:
            try:
                message = DEAD.decode(record.value)
            except RecordError:
                found.unreadable += 1
                continue
            if isinstance(message, DeadReplayed):
                found.mark(message)
            elif filters.mean(message):
                tenant = _tenant(keys, message) if filters.tenant else ""
                if tenant is None:
                    found.unopened += 1
                if tenant != filters.tenant:
                    continue
                found.add(record.offset, msgspec.structs.replace(message, value=b"", key=b"", headers=[]))
    return found


class Reading:
    """Reads whole letters at their offsets, by one reader."""

    def __init__(self, log_: Log) -> None:
        self._log = log_
        self._reader: Reader | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reader is not None:
            await self._reader.close()

    async def letter(self, offset: int) -> DeadLetter:
        """The letter at an offset of `dead`. Raises `PositionLost`: retention has taken it."""
        if self._reader is None:
            self._reader = self._log.reader()
            self._reader.assign({PLACE: offset})
        else:
            self._reader.seek(PLACE, offset)
        while True:
            for record in (await self._reader.read(_READ_SECONDS, max_records=1)).get(PLACE, ()):
                message = DEAD.decode(record.value)
                assert isinstance(message, DeadLetter), "the list has offsets of letters only"
                return message


def open_letter(keys: SystemKeys, letter: DeadLetter) -> DeadContents:
    """The record inside. Raises `EnvelopeRejected`: the keyring lacks its key, or it was changed."""
    opened = open_blob(keys, letter.key_id, letter.origin_key, letter.value)
    try:
        return msgspec.msgpack.decode(opened, type=DeadContents)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise EnvelopeRejected() from None


def content_type(contents: DeadContents) -> str:
    """What the record says its value is."""
    found = next((value for name, value in contents.headers if name.lower() == CONTENT_TYPE), b"")
    return found.partition(b";")[0].strip().lower().decode(errors="replace")


async def put_back(log_: Log, keys: SystemKeys, clock: Clock, entries: Sequence[Entry]) -> AsyncGenerator[Put, None]:
    """Puts records back where they came from, one after the other, and says so on `dead`.

    At least once: who is interrupted between the two, puts that one record back again the next time. A letter that does not
    open is left out, and holds up none of the others.
    """
    async with Reading(log_) as reading:
        for entry in entries:
            letter = await reading.letter(entry.offset)
            try:
                contents = open_letter(keys, letter)
            except EnvelopeRejected:
                yield Put(entry, None)
                continue
            now = clock.now()
            word = replay_header(keys, letter, contents.value, letter.taken_at or letter.at, now)
            place = Place(letter.origin.topic, letter.origin.partition)
            out = Out(contents.key, contents.value, (*without_replay(contents.headers), word))
            to = Origin(*place, await log_.emit(place, [out]))
            mark = DeadReplayed(origin=letter.origin, to=to, at=now)
            await log_.emit(PLACE, [Out(letter.origin_key, encode(mark))])
            yield Put(entry, to)


def unopened(letter: DeadLetter) -> str:
    """Why a letter does not open, for people."""
    return f"it does not open; it was sealed under key {letter.key_id}, see `llmos keys list`"


def _tenant(keys: SystemKeys | None, letter: DeadLetter) -> str | None:
    """Whose request it is; empty: nobody's, None: it does not open."""
    if keys is None or not keys.has(letter.key_id):
        return None
    try:
        contents = open_letter(keys, letter)
    except EnvelopeRejected:
        return None
    try:
        decode = msgspec.json.decode if content_type(contents) == JSON else msgspec.msgpack.decode
        return decode(contents.value, type=_Whose).tenant
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


async def _records(log_: Log, start: int, end: int) -> AsyncGenerator[Record, None]:
    """The records of `dead` from an offset to before another."""
    reader = log_.reader()
    try:
        reader.assign({PLACE: start})
        while reader.position(PLACE) < end:
            for record in (await reader.read(_READ_SECONDS, max_records=_TOGETHER)).get(PLACE, ()):
                if record.offset < end:
                    yield record
    finally:
        await reader.close()
