"""The port to the log: read in order, emit one awaited batch per partition, commit with metadata, transact.

Two implementations stand behind it, `kafka` and `memory`; one conformance kit holds both to these promises:

- `emit` is one awaited batch: when it returns, all its records are durable, in order, with nothing between them that
  this process sent. When it raises, anything may have happened; it raises `Ambiguous`, and the caller's process ends.
- `Reader.read` gives each place's records in order, without gaps. Of topics that we write in transactions (`results`,
  `usage`, topics of other owners; `schemas.topics.in_transactions`) it gives committed ones only, and never reads past an
  open transaction. Of all others it gives whatever lies there: a stranger's transaction holds nobody up.
  `position` is where the next read goes on, past what transactions leave in the log.
- `Reader.commit` is plain: the last writer wins, nobody is fenced.
- `transact` is all or nothing: it sends, awaits every delivery, commits. A newer transactor of the same name fences
  the older: its `transact` raises `Fenced`.

Times are Unix seconds by the log's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """A record as it was read."""

    place: Place
    offset: int
    timestamp: float
    """Append time or create time, as the topic says, in seconds."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Out(NamedTuple):
    """A record to be written."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Commit(NamedTuple):
    """A committed offset: the next record to read, and at most 4,096 characters of metadata as of that offset."""

    offset: int
    metadata: str = ""


class TopicSpec(NamedTuple):
    """A topic to be made. `retention_seconds` None: compacted."""

    name: str
    partitions: int
    retention_seconds: float | None
    append_time: bool
    record_bytes: int


class Reader(Protocol):
    """Reads a changing set of places; belongs to one task."""

    def assign(self, starts: Mapping[Place, int]) -> None:
        """Adds places, to be read from the given offsets (which must lie within the log)."""

    async def read(self, timeout: float, max_records: int = 2000) -> dict[Place, list[Record]]:
        """What is there of the places not paused; waits at most `timeout` seconds for the first record.

        Raises:
            PositionLost: a position lies outside of the log (records were lost to retention or deletion).
        """

    def position(self, place: Place) -> int:
        """The offset from which the next `read` goes on."""

    def seek(self, place: Place, offset: int) -> None:
        """The next `read` of `place` begins at `offset`; what was fetched ahead is forgotten."""

    def pause(self, places: Iterable[Place]) -> None:
        """`read` leaves these out; what was fetched ahead is kept."""

    def resume(self, places: Iterable[Place]) -> None:
        """Undoes `pause`."""

    async def commit(self, commits: Mapping[Place, Commit]) -> None:
        """Commits under the reader's group. Raises `Ambiguous`."""

    async def close(self) -> None:
        """Ends fetching; bounded in time."""


class Transactor(Protocol):
    """Writes transactions under one name; belongs to one task."""

    async def transact(self, batches: Mapping[Place, Sequence[Out]]) -> dict[Place, int]:
        """Writes all or nothing; gives the offset of the first record per place.

        Raises:
            Fenced: a newer transactor of this name exists; nothing was written.
            Unwritable: places refuse their records (too large, no such topic), or topics of other owners have not taken
                them within `COPY_SECONDS`; nothing was written, go on without.
            Ambiguous: nobody knows.
        """

    async def settle(self, places: Sequence[Place]) -> None:
        """Ends what an earlier life of this name was committing at these places when the broker died.

        A commit that was decided is carried out; the log itself may forget to. Once, before the state is read.
        Raises `Fenced`, `Ambiguous`.
        """

    async def close(self) -> None:
        """Ends the producer; bounded in time."""


COPY_SECONDS = 2.0
"""What a topic of another owner gets to take its part of a transaction, once `results` and `usage` have theirs."""


class Refusal(NamedTuple):
    """Why a place took no records."""

    reason: str
    whole: bool
    """The place is missing or takes nothing at all; else it may take some of these records, or take them by themselves."""


class Unwritable(Exception):
    """Places refuse records; nothing of the transaction was written."""

    def __init__(self, refusals: Mapping[Place, Refusal]) -> None:
        super().__init__("; ".join(f"{p.topic}[{p.partition}]: {refusal.reason}" for p, refusal in refusals.items()))
        self.refusals = refusals


class Log(Protocol):
    """A connection to the log, owned by one service."""

    def reader(self, group: str | None = None) -> Reader:
        """A reader with nothing assigned. `group` names whose offsets `commit` writes."""

    async def emit(self, place: Place, records: Sequence[Out]) -> int:
        """Appends one batch, awaited; gives the first record's offset. Calls for one place queue up behind each other."""

    async def offer(self, place: Place, records: Sequence[Out]) -> bool:
        """Best effort, for topics of other owners: appends the records in order, or gives up within seconds and says so.

        What goes wrong here concerns no other call: a topic that was deleted must not end a service.
        """

    async def transactor(self, name: str) -> Transactor:
        """Initialises the producer of this name: fences the older, ends its open transaction."""

    async def committed(self, group: str, places: Iterable[Place]) -> dict[Place, Commit | None]:
        """What is committed; None where nothing is."""

    async def begins(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset still in the log."""

    async def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset that the next record will get, behind open transactions, too.

        Who reads up to it reads every record there is now: at once where nobody waits for transactions; else when all
        that are open now have ended, which a start that must know all receipts has to wait for.
        """

    async def offsets_at(self, times: Mapping[Place, float]) -> dict[Place, int]:
        """The first offset whose record is no older than the time; the end where there is none."""

    async def partitions(self, topic: str) -> int | None:
        """How many partitions `topic` has; None where it does not exist."""

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """Makes the topics that do not exist yet."""

    async def close(self) -> None:
        """Ends all producers and connections; bounded in time."""


class Clock(Protocol):
    """Wall time; the simulator gives a virtual one."""

    def now(self) -> float:
        """Unix seconds."""
