"""Receipts as they are read: from the topic `usage`, committed ones only, or from a file that was saved from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from llmos.cli.usage import Saved, saved_lines
from llmos.infra.crypto.credentials import PublicKey
from llmos.infra.crypto.receipts import verifying_keys
from llmos.infra.log.port import Log, Place
from llmos.infra.wording import in_words
from llmos.schemas import topics
from llmos.schemas.errors import BadSetting, OperatorError, TopicMissing

STALL_SECONDS = 60.0
"""Without any progress, reading is given up."""
_READ_SECONDS = 1.0


async def from_topic(log: Log, partitions: Iterable[int] | None, since: float = 0.0) -> AsyncGenerator[list[Saved]]:
    """The receipts of these partitions (none named: all) that were written from `since` on (Unix seconds), to the ends as
    of now, a read at a time; each partition's in order.

    Raises:
        TopicMissing: there is no such topic.
        BadSetting: it has no such partition.
        OperatorError: nothing comes any more.
    """
    places = await _places(log, partitions)
    starts = await log.begins(places)
    if since > 0:
        at = await log.offsets_at(dict.fromkeys(places, since))
        starts = {place: max(begin, at[place]) for place, begin in starts.items()}
    ends = await log.ends(places)
    reader = log.reader()
    loop = asyncio.get_running_loop()
    try:
        reader.assign({place: min(start, ends[place]) for place, start in starts.items()})
        behind, moved_at = -1, loop.time()
        while any(reader.position(place) < end for place, end in ends.items()):
            for place, records in (await reader.read(_READ_SECONDS)).items():
                yield [
                    Saved(place.partition, record.offset, record.timestamp, record.value or b"")
                    for record in records
                    if record.offset < ends[place]
                ]
            position = sum(reader.position(place) for place in places)
            if position != behind:
                behind, moved_at = position, loop.time()
            elif loop.time() - moved_at > STALL_SECONDS:
                raise OperatorError(problem=f"nothing more of the receipts could be read for {STALL_SECONDS:g} s")
    finally:
        await reader.close()


async def _places(log: Log, partitions: Iterable[int] | None) -> list[Place]:
    count = await log.partitions(topics.USAGE)
    if count is None:
        raise TopicMissing(topic=topics.USAGE)
    chosen = sorted(set(range(count) if partitions is None else partitions))
    if any(not 0 <= partition < count for partition in chosen):
        raise BadSetting(setting="--partition", problem=f"{topics.USAGE} has partitions 0 to {count - 1}")
    return [Place(topics.USAGE, partition) for partition in chosen]


def from_file(path: Path) -> Iterator[Saved]:
    """The receipts that were saved in a file, line by line.

    Raises:
        BadSetting: it cannot be read.
        OperatorError: a line is none.
    """
    try:
        with path.open("rb") as file:
            yield from saved_lines(iter(file))
    except OSError as problem:
        raise BadSetting(setting="--file", problem=f"{path}: {problem.strerror}") from None


class Saving:
    """Writes receipts into a file, in threads: a disk may be slow."""

    def __init__(self, path: Path) -> None:
        """Raises `BadSetting`: it cannot be written."""
        self._path = path
        self._write("wb", b"")

    async def write(self, receipts: Iterable[Saved]) -> None:
        """Behind those that were written before. Raises `BadSetting`."""
        lines = b"".join(msgspec.json.encode(saved) + b"\n" for saved in receipts)
        await asyncio.to_thread(self._write, "ab", lines)

    def _write(self, mode: Literal["wb", "ab"], lines: bytes) -> None:
        try:
            with self._path.open(mode) as file:
                file.write(lines)
        except OSError as problem:
            raise BadSetting(setting="--save", problem=f"{self._path}: {problem.strerror}") from None


def load_public_keys(path: Path) -> Mapping[str, bytes]:
    """The keys that check receipts, by id, from a file as `llmos keys export` writes it.

    Raises:
        BadSetting: it cannot be read, is none, or has no such key.
    """
    try:
        keys = verifying_keys(msgspec.json.decode(path.read_bytes(), type=list[PublicKey]))
    except OSError as problem:
        raise _bad(f"{path}: {problem.strerror}; `llmos keys export` writes them") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise _bad(f"{path} holds no public keys: {in_words(problem)}") from None
    if not keys:
        raise _bad(f"{path} has no key that checks receipts")
    return keys


def _bad(problem: str) -> BadSetting:
    return BadSetting(setting="--public-keys", problem=problem)
