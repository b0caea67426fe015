"""What every log must do, as tests: a module subclasses `LogKit` and gives a fixture `connect`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest

from llmos.infra.log.port import Commit, Log, Out, Place, Reader, Record, TopicSpec, Unwritable
from llmos.schemas.errors import Ambiguous, Fenced, LayoutMismatch
from llmos.schemas.limits import METADATA_CHARACTERS, RECORD_BYTES

Connect = Callable[[str], Awaitable[Log]]
"""Connects a client of this name; the fixture closes it."""

A0, A1 = Place("a", 0), Place("a", 1)
_DEADLINE_SECONDS = 30.0


def spec(
    name: str = "a", partitions: int = 2, *, append_time: bool = False, record_bytes: int = RECORD_BYTES
) -> TopicSpec:
    """A topic kept for an hour."""
    return TopicSpec(name, partitions, 3600.0, append_time, record_bytes)


def outs(*values: str) -> list[Out]:
    """Records with these values."""
    return [Out(b"k", value.encode()) for value in values]


def values(records: Iterable[Record]) -> list[str]:
    """Their values."""
    return [(record.value or b"").decode() for record in records]


async def collect(reader: Reader, count: int, max_records: int = 2000) -> list[Record]:
    """Reads until `count` records came."""
    found: list[Record] = []
    async with asyncio.timeout(_DEADLINE_SECONDS):
        while len(found) < count:
            for records in (await reader.read(1.0, max_records)).values():
                found += records
    return found


async def everything(log: Log, place: Place) -> list[Record]:
    """Reads a place from its first record until the position is at its end as of now."""
    reader = log.reader()
    found: list[Record] = []
    try:
        end = (await log.ends([place]))[place]
        reader.assign({place: (await log.begins([place]))[place]})
        async with asyncio.timeout(_DEADLINE_SECONDS):
            while reader.position(place) < end:
                for records in (await reader.read(0.1)).values():
                    found += records
        return found
    finally:
        await reader.close()


class EmitKit:
    """Emitting."""

    async def test_records_come_back_as_they_were_sent(self, connect: Connect) -> None:
        """Key, value, headers, also empty and missing ones, in order, from the offset that `emit` named."""
        log = await connect("one")
        await log.ensure([spec()])
        sent = [Out(b"k", b"v", (("h", b"x"), ("i", b""))), Out(None, b""), Out(b"", None), Out(None, None)]
        await log.emit(A1, outs("before"))
        first = await log.emit(A1, sent)
        found = await everything(log, A1)
        assert first == 1
        assert [record[3:] for record in found[1:]] == [tuple(out) for out in sent]
        assert [record.offset for record in found] == [0, 1, 2, 3, 4]
        assert {record.place for record in found} == {A1}

    async def test_calls_side_by_side_keep_each_callers_order(self, connect: Connect) -> None:
        """Many callers at once: every record is there once, each caller's in order, at the offsets they were told."""
        log = await connect("one")
        await log.ensure([spec()])

        async def caller(name: int) -> dict[int, str]:
            told: dict[int, str] = {}
            for turn in range(20):
                batch = [f"{name}:{turn}:{i}" for i in range(1 + (name + turn) % 3)]
                first = await log.emit(A0, outs(*batch))
                told |= dict(enumerate(batch, first))
            return told

        told = await asyncio.gather(*(caller(name) for name in range(10)))
        expected = {offset: value for part in told for offset, value in part.items()}
        found = await everything(log, A0)
        assert len(expected) == sum(map(len, told)), "an offset was told twice"
        assert dict(zip((r.offset for r in found), values(found), strict=True)) == expected
        for part in told:
            assert list(part) == sorted(part)

    async def test_many_records_are_many_batches_without_a_gap(self, connect: Connect) -> None:
        """More than a batch holds: all there, in order, one offset after the other."""
        log = await connect("one")
        await log.ensure([spec()])
        sent = [Out(str(i).encode(), bytes(1000)) for i in range(3500)]
        first, second = await asyncio.gather(log.emit(A0, sent), log.emit(A0, outs("behind")))
        found = await everything(log, A0)
        assert (first, second) == (0, 3500)
        assert [record.key for record in found[:-1]] == [out.key for out in sent]
        assert [record.offset for record in found] == list(range(3501))

    async def test_the_largest_record_passes(self, connect: Connect) -> None:
        """A value of exactly the limit is written, read, and read again behind small ones."""
        log = await connect("one")
        await log.ensure([spec()])
        large = Out(b"k" * 1000, bytes(RECORD_BYTES), (("h", b"x"),))
        await log.emit(A0, [*outs("small"), large, *outs("small")])
        found = await everything(log, A0)
        assert [len(record.value or b"") for record in found] == [5, RECORD_BYTES, 5]

    async def test_too_large_a_record_ends_emitting(self, connect: Connect) -> None:
        """It is ambiguous, nothing of the call is sent, and nothing is sent afterwards: there is no gap."""
        log = await connect("one")
        await log.ensure([spec()])
        await log.emit(A0, outs("before"))
        with pytest.raises(Ambiguous):
            await log.emit(A0, [*outs("lost"), Out(None, bytes(RECORD_BYTES + 1))])
        with pytest.raises(Ambiguous):
            await log.emit(A1, outs("after"))
        assert values(await everything(log, A0)) == ["before"]
        assert await everything(log, A1) == []

    async def test_a_record_the_topic_refuses_ends_emitting(self, connect: Connect) -> None:
        """The topic's own limit is the broker's to say; the log is poisoned just the same."""
        log = await connect("one")
        await log.ensure([spec(record_bytes=1000)])
        with pytest.raises(Ambiguous):
            await log.emit(A0, [Out(None, bytes(200_000))])
        with pytest.raises(Ambiguous):
            await log.emit(A0, outs("after"))
        assert await everything(log, A0) == []

    async def test_a_cancelled_caller_leaves_no_gap(self, connect: Connect) -> None:
        """What was handed over is sent although its caller went away, before what comes later."""
        log = await connect("one")
        await log.ensure([spec()])
        gone = [asyncio.create_task(log.emit(A0, outs(f"gone {i}"))) for i in range(3)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await log.emit(A0, outs("later"))
        assert values(await everything(log, A0)) == ["gone 0", "gone 1", "gone 2", "later"]
        assert all(task.cancelled() for task in gone)

    async def test_an_emit_waits_for_its_topic(self, connect: Connect) -> None:
        """A topic that is made a moment later gets the record."""
        log = await connect("one")
        early = asyncio.create_task(log.emit(A0, outs("early")))
        await log.ensure([spec("other")])
        await log.ensure([spec()])
        async with asyncio.timeout(_DEADLINE_SECONDS):
            assert await early == 0
        assert values(await everything(log, A0)) == ["early"]

    async def test_nothing_to_emit_is_an_error(self, connect: Connect) -> None:
        """There is no first offset of no records."""
        log = await connect("one")
        with pytest.raises(ValueError, match="nothing"):
            await log.emit(A0, [])


class ReaderKit:
    """Reading."""

    async def test_nothing_assigned_reads_nothing(self, connect: Connect) -> None:
        """Not an error: a reader waits, and gives nothing."""
        reader = (await connect("one")).reader()
        assert await reader.read(0.01) == {}
        await reader.close()

    async def test_a_waiting_reader_hears_of_a_record(self, connect: Connect) -> None:
        """`read` returns at the record, not at its time-out."""
        log = await connect("one")
        await log.ensure([spec()])
        reader = log.reader()
        reader.assign({A0: 0})
        waiting = asyncio.create_task(reader.read(_DEADLINE_SECONDS * 100))
        await log.emit(A0, outs("news"))
        async with asyncio.timeout(_DEADLINE_SECONDS):
            assert values((await waiting)[A0]) == ["news"]
        await reader.close()

    async def test_reads_are_bounded_and_go_on(self, connect: Connect) -> None:
        """At most `max_records` at a time; the position says where the next read goes on."""
        log = await connect("one")
        await log.ensure([spec()])
        await log.emit(A0, outs(*map(str, range(10))))
        reader = log.reader()
        reader.assign({A0: 2})
        found = await collect(reader, 3, max_records=3)
        assert values(found) == ["2", "3", "4"]
        assert reader.position(A0) == 5
        assert values(await collect(reader, 5)) == ["5", "6", "7", "8", "9"]
        assert reader.position(A0) == 10
        await reader.close()

    async def test_places_are_added_and_keep_their_positions(self, connect: Connect) -> None:
        """A second `assign` neither repeats nor skips records of the first."""
        log = await connect("one")
        await log.ensure([spec()])
        await log.emit(A0, outs("0", "1", "2"))
        await log.emit(A1, outs("x", "y"))
        reader = log.reader()
        reader.assign({A0: 0})
        assert values(await collect(reader, 1, max_records=1)) == ["0"]
        reader.assign({A1: 1})
        found = await collect(reader, 3)
        assert [record.value for record in found if record.place == A0] == [b"1", b"2"]
        assert [record.value for record in found if record.place == A1] == [b"y"]
        await reader.close()

    async def test_a_paused_place_keeps_what_was_fetched(self, connect: Connect) -> None:
        """Paused, it is left out and the others go on; resumed, it goes on where it was."""
        log = await connect("one")
        await log.ensure([spec()])
        await log.emit(A0, outs("0", "1", "2"))
        reader = log.reader()
        reader.assign({A0: 0, A1: 0})
        assert values(await collect(reader, 1, max_records=1)) == ["0"]
        reader.pause([A0])
        await log.emit(A1, outs("x"))
        assert values(await collect(reader, 1)) == ["x"]
        assert await reader.read(0.01) == {}
        assert reader.position(A0) == 1
        reader.pause([A1])
        assert await reader.read(0.01) == {}
        reader.resume([A0, A1])
        assert values(await collect(reader, 2)) == ["1", "2"]
        await reader.close()

    async def test_a_place_that_fills_every_read_starves_nobody(self, connect: Connect) -> None:
        """Of two places with records, both are served within two reads, however much one of them has."""
        log = await connect("one")
        await log.ensure([spec()])
        await log.emit(A0, outs(*map(str, range(500))))
        await log.emit(A1, outs("x"))
        reader = log.reader()
        reader.assign({A0: 0, A1: 0})
        served = {record.place for record in await collect(reader, 10, max_records=10)}
        served |= {record.place for record in await collect(reader, 10, max_records=10)}
        assert served == {A0, A1}
        await reader.close()

    async def test_seek_goes_back_and_ahead(self, connect: Connect) -> None:
        """What was fetched ahead is forgotten."""
        log = await connect("one")
        await log.ensure([spec()])
        await log.emit(A0, outs(*map(str, range(6))))
        reader = log.reader()
        reader.assign({A0: 0})
        await collect(reader, 2, max_records=2)
        reader.seek(A0, 5)
        assert reader.position(A0) == 5
        assert values(await collect(reader, 1)) == ["5"]
        reader.seek(A0, 0)
        assert values(await collect(reader, 6)) == ["0", "1", "2", "3", "4", "5"]
        with pytest.raises(KeyError):
            reader.seek(A1, 0)
        await reader.close()

    async def test_a_position_outside_of_the_log_is_an_error(self, connect: Connect) -> None:
        """Never “start at latest”: the operator hears of it."""
        log = await connect("one")
        await log.ensure([spec()])
        await log.emit(A0, outs("0"))
        reader = log.reader()
        reader.assign({A0: 7})
        with pytest.raises(LayoutMismatch, match="7"):
            await collect(reader, 1)
        await reader.close()

    async def test_a_topic_may_be_made_after_its_reader(self, connect: Connect) -> None:
        """Reading begins when it is there."""
        log = await connect("one")
        reader = log.reader()
        reader.assign({A0: 0})
        assert await reader.read(0.01) == {}
        await log.ensure([spec()])
        await log.emit(A0, outs("0"))
        assert values(await collect(reader, 1)) == ["0"]
        await reader.close()

    async def test_commits_carry_metadata(self, connect: Connect) -> None:
        """What was committed last is found, by whichever reader; None where nothing was, and per group."""
        log, other = await connect("one"), await connect("two")
        await log.ensure([spec()])
        await log.emit(A0, outs("0"))
        mine, yours = log.reader("g"), other.reader("g")
        for reader in (mine, yours):
            reader.assign({A0: 0, A1: 0})
        assert await log.committed("g", [A0, A1]) == {A0: None, A1: None}
        longest = "x" * METADATA_CHARACTERS
        await mine.commit({A0: Commit(1, longest)})
        assert await other.committed("g", [A0, A1]) == {A0: Commit(1, longest), A1: None}
        await yours.commit({A0: Commit(0, ""), A1: Commit(0, "é")})
        assert await log.committed("g", [A0, A1]) == {A0: Commit(0, ""), A1: Commit(0, "é")}
        assert await log.committed("h", [A0]) == {A0: None}
        with pytest.raises(Ambiguous):
            await mine.commit({A0: Commit(1, longest + "x")})
        await mine.close()
        await yours.close()

    async def test_a_reader_without_a_group_cannot_commit(self, connect: Connect) -> None:
        """A mistake of the caller's, not something ambiguous."""
        reader = (await connect("one")).reader()
        with pytest.raises(ValueError, match="group"):
            await reader.commit({A0: Commit(0)})
        await reader.close()


class TransactorKit:
    """Transactions."""

    async def test_a_transaction_is_written_in_all_places(self, connect: Connect) -> None:
        """The offsets told are those read; the position passes over the markers to the very end."""
        log = await connect("one")
        await log.ensure([spec()])
        transactor = await log.transactor("t")
        assert await transactor.transact({A0: outs("0", "1"), A1: outs("x")}) == {A0: 0, A1: 0}
        second = await transactor.transact({A0: outs("2")})
        await log.emit(A0, outs("plain"))
        found = await everything(log, A0)
        assert values(found) == ["0", "1", "2", "plain"]
        assert found[2].offset == second[A0] > 2, "a marker takes an offset"
        assert values(await everything(log, A1)) == ["x"]
        await transactor.close()

    async def test_an_empty_transaction_is_nothing(self, connect: Connect) -> None:
        """No records, no offsets, no marker."""
        log = await connect("one")
        await log.ensure([spec()])
        transactor = await log.transactor("t")
        assert await transactor.transact({A0: []}) == {}
        assert await log.ends([A0]) == {A0: 0}
        await transactor.close()

    async def test_two_transactors_take_turns(self, connect: Connect) -> None:
        """Transactions of two names over the same places come in the order of their commits."""
        log = await connect("one")
        await log.ensure([spec()])
        pair = [await log.transactor(name) for name in ("t-0", "t-1")]
        for turn in range(8):
            await pair[turn % 2].transact({A0: outs(str(turn)), A1: outs(str(turn))})
        for place in (A0, A1):
            assert values(await everything(log, place)) == [str(turn) for turn in range(8)]
        for transactor in pair:
            await transactor.close()

    async def test_a_newer_transactor_fences_the_older(self, connect: Connect) -> None:
        """The older writes nothing more, ever; the newer is not disturbed."""
        log, other = await connect("one"), await connect("two")
        await log.ensure([spec()])
        older = await log.transactor("t")
        await older.transact({A0: outs("0")})
        newer = await other.transactor("t")
        await newer.transact({A0: outs("1")})
        with pytest.raises(Fenced):
            await older.transact({A0: outs("zombie"), A1: outs("zombie")})
        with pytest.raises(Ambiguous):
            await older.transact({A0: outs("zombie")})
        await newer.transact({A0: outs("2")})
        assert values(await everything(log, A0)) == ["0", "1", "2"]
        assert values(await everything(log, A1)) == []
        await older.close()
        await newer.close()

    @pytest.mark.parametrize(
        ("place", "batch"),
        [
            (Place("missing", 0), outs("x")),
            (Place("a", 7), outs("x")),
            (Place("small", 0), [Out(None, bytes(200_000))]),
            (A1, [Out(None, bytes(RECORD_BYTES + 1))]),
        ],
        ids=["no topic", "no partition", "too large for the topic", "too large for all"],
    )
    async def test_a_place_that_refuses_is_named(self, connect: Connect, place: Place, batch: Sequence[Out]) -> None:
        """Nothing becomes visible, the transactor goes on without the place, and readers reach the end."""
        log = await connect("one")
        await log.ensure([spec(), spec("small", 1, record_bytes=1000)])
        transactor = await log.transactor("t")
        await transactor.transact({A0: outs("0")})
        with pytest.raises(Unwritable) as refused:
            await transactor.transact({A0: outs("lost"), place: batch})
        assert refused.value.place == place
        await transactor.transact({A0: outs("1")})
        assert values(await everything(log, A0)) == ["0", "1"]
        assert await log.partitions("missing") is None
        await transactor.close()

    async def test_a_refusal_does_not_undo_fencing(self, connect: Connect) -> None:
        """After a refusal the older is still the older."""
        log = await connect("one")
        await log.ensure([spec(), spec("small", 1, record_bytes=1000)])
        older = await log.transactor("t")
        newer = await log.transactor("t")
        with pytest.raises(Fenced):
            await older.transact({A0: outs("lost"), Place("small", 0): [Out(None, bytes(200_000))]})
        await newer.transact({A0: outs("0")})
        assert values(await everything(log, A0)) == ["0"]
        await older.close()
        await newer.close()

    async def test_a_cancelled_caller_does_not_break_a_transaction(self, connect: Connect) -> None:
        """It is carried out, whole, before the next one."""
        log = await connect("one")
        await log.ensure([spec()])
        transactor = await log.transactor("t")
        gone = asyncio.create_task(transactor.transact({A0: outs("0"), A1: outs("x")}))
        await asyncio.sleep(0)
        gone.cancel()
        await transactor.transact({A0: outs("1")})
        assert values(await everything(log, A0)) == ["0", "1"]
        assert values(await everything(log, A1)) == ["x"]
        assert gone.cancelled()
        await transactor.close()

    async def test_a_closed_transactor_writes_no_more(self, connect: Connect) -> None:
        """It says so."""
        log = await connect("one")
        await log.ensure([spec()])
        transactor = await log.transactor("t")
        await transactor.close()
        with pytest.raises(Ambiguous, match="closed"):
            await transactor.transact({A0: outs("0")})


class TopicsKit:
    """Topics and offsets."""

    async def test_topics_are_made_once(self, connect: Connect) -> None:
        """A second time changes nothing; a topic that was not made is None, and asking makes none."""
        log = await connect("one")
        assert await log.partitions("a") is None
        assert await log.partitions("a") is None
        await log.ensure([spec(), TopicSpec("compacted", 1, None, append_time=False, record_bytes=1000)])
        await log.emit(A0, outs("0"))
        await log.ensure([spec(partitions=5)])
        await log.ensure([])
        assert await log.partitions("a") == 2
        assert await log.partitions("compacted") == 1
        assert values(await everything(log, A0)) == ["0"]

    async def test_begins_and_ends(self, connect: Connect) -> None:
        """The first offset there is, and the next to be given."""
        log = await connect("one")
        await log.ensure([spec()])
        assert await log.begins([A0, A1]) == {A0: 0, A1: 0}
        assert await log.ends([A0, A1]) == {A0: 0, A1: 0}
        await log.emit(A0, outs("0", "1"))
        assert await log.begins([A0, A1]) == {A0: 0, A1: 0}
        assert await log.ends([A0, A1]) == {A0: 2, A1: 0}
        assert await log.ends([]) == {}

    @pytest.mark.parametrize("append_time", [True, False], ids=["append time", "create time"])
    async def test_offsets_by_time(self, connect: Connect, append_time: bool) -> None:
        """The first record no older than the time, the end where there is none; times never run backwards."""
        log = await connect("one")
        await log.ensure([spec(append_time=append_time)])
        for value in "012":
            await log.emit(A0, outs(value))
        found = await everything(log, A0)
        times = [record.timestamp for record in found]
        assert times == sorted(times)
        for time in times:
            expected = next(record.offset for record in found if record.timestamp >= time)
            assert (await log.offsets_at({A0: time}))[A0] == expected
        assert await log.offsets_at({A0: 0.0, A1: 0.0}) == {A0: 0, A1: 0}
        assert await log.offsets_at({A0: times[-1] + 1.0}) == {A0: 3}


class LogKit(EmitKit, ReaderKit, TransactorKit, TopicsKit):
    """All promises of the port."""
