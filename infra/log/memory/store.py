"""One partition in memory: records, open transactions, markers that take an offset, and who waits for more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from llmos.infra.log.port import Out, Place, Record, TopicSpec
from llmos.infra.log.sizes import SLACK_BYTES, size_of
from llmos.schemas.topics import in_transactions

State = Literal["plain", "open", "committed", "aborted", "marker"]


class Stored(NamedTuple):
    """What lies at an offset, for checkers. A marker's record has neither key nor value."""

    record: Record
    state: State
    """Whether readers see it: plain and committed records, the latter once their marker is written."""
    client: str
    """Who wrote it."""


class Transaction:
    """A transaction of one epoch of one transactor."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.state: Literal["open", "committed", "aborted"] = "open"
        self.partitions: list[Partition] = []
        """Where it has records and no marker yet."""

    def write_markers(self, now: float) -> None:
        """Ends it wherever it has no marker yet; it must be decided."""
        partitions, self.partitions = self.partitions, []
        for partition in partitions:
            partition.mark(self, now)


class _Entry(NamedTuple):
    record: Record
    transaction: Transaction | None
    client: str
    marker: bool = False


class Partition:
    """Append-only; offset i is entry i."""

    def __init__(self, place: Place, spec: TopicSpec) -> None:
        self.place = place
        self.spec = spec
        self.begin = 0
        self._committed = in_transactions(place.topic)
        """Readers see what is committed only, and stop at open transactions; else they read all that lies there."""
        self._entries: list[_Entry] = []
        self._open: dict[Transaction, int] = {}
        """Transactions without a marker, with the offset of their first record here."""
        self._waiters: dict[Callable[[], None], None] = {}
        """In order of arrival: a set's order would differ from run to run."""

    @property
    def end(self) -> int:
        """The offset that the next record will get."""
        return len(self._entries)

    @property
    def stable(self) -> int:
        """Where readers stop: where they wait for transactions, at the first record of an open one; else at the end."""
        if not self._committed:
            return len(self._entries)
        return min(self._open.values(), default=len(self._entries))

    def refusal(self, outs: Sequence[Out]) -> str | None:
        """Why the topic takes no such records; None where it does."""
        limit = self.spec.record_bytes + SLACK_BYTES
        largest = max(map(size_of, outs))
        return f"a record of {largest} bytes; the topic takes {limit}" if largest > limit else None

    def append(
        self, outs: Sequence[Out], client: str, created: float, now: float, transaction: Transaction | None = None
    ) -> int:
        """Appends; gives the offset of the first. `created`: the writer's time, `now`: the log's."""
        timestamp = now if self.spec.append_time else created
        base = len(self._entries)
        if transaction is not None and transaction not in self._open:
            self._open[transaction] = base
            transaction.partitions.append(self)
        for offset, (key, value, headers) in enumerate(outs, base):
            record = Record(self.place, offset, timestamp, key, value, tuple(headers))
            self._entries.append(_Entry(record, transaction, client))
        if transaction is None or not self._committed:
            self._wake()
        return base

    def mark(self, transaction: Transaction, now: float) -> None:
        """Writes the marker that ends `transaction` here."""
        del self._open[transaction]
        record = Record(self.place, len(self._entries), now, None, None)
        self._entries.append(_Entry(record, transaction, transaction.client, marker=True))
        self._wake()

    def read(self, position: int, limit: int) -> tuple[list[Record], int]:
        """At most `limit` records that readers see, from `position` on, and where to go on."""
        found: list[Record] = []
        stable = self.stable
        while position < stable and len(found) < limit:
            entry = self._entries[position]
            position += 1
            if not entry.marker and not self._aborted(entry):
                found.append(entry.record)
        while position < stable and self._hidden(position):
            position += 1
        return found, position

    def _hidden(self, offset: int) -> bool:
        entry = self._entries[offset]
        return entry.marker or self._aborted(entry)

    def _aborted(self, entry: _Entry) -> bool:
        """Whether readers leave it out for its transaction's end; below `stable` every transaction has one."""
        return self._committed and entry.transaction is not None and entry.transaction.state != "committed"

    def offset_at(self, time: float) -> int:
        """The first offset, from the first still there on, whose record is no older than `time`; else the end."""
        for offset in range(self.begin, len(self._entries)):
            entry = self._entries[offset]
            if not entry.marker and entry.record.timestamp >= time:
                return offset
        return len(self._entries)

    def dump(self) -> list[Stored]:
        """Everything still there."""
        return [Stored(e.record, self._state(e), e.client) for e in self._entries[self.begin :]]

    def _state(self, entry: _Entry) -> State:
        if entry.marker:
            return "marker"
        if entry.transaction is None:
            return "plain"
        return "open" if entry.transaction in self._open else entry.transaction.state

    def wait(self, wake: Callable[[], None]) -> None:
        """Calls `wake` at every change that readers may see."""
        self._waiters[wake] = None

    def leave(self, wake: Callable[[], None]) -> None:
        """Undoes `wait`."""
        self._waiters.pop(wake, None)

    def _wake(self) -> None:
        for wake in list(self._waiters):
            wake()
