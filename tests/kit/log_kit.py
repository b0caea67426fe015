"""What every log must do, as tests: a module subclasses `LogKit` and gives a fixture `connect`."""

from __future__ import annotations

import asyncio

import pytest

from llmos.infra.log.port import Commit, Out, Place
from llmos.schemas.errors import Ambiguous, PositionLost
from llmos.schemas.limits import METADATA_CHARACTERS, RECORD_BYTES
from tests.kit.log_bench import A0, A1, DEADLINE_SECONDS, Connect, collect, everything, outs, spec, values
from tests.kit.log_kit_transactions import TopicsKit, TransactorKit


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

    async def test_an_offer_is_written_or_dropped(self, connect: Connect) -> None:
        """Records offered to a topic arrive in order; to none they are dropped, and nothing else suffers."""
        log = await connect("one")
        await log.ensure([spec()])
        assert await log.offer(A0, outs("a", "b"))
        assert not await log.offer(Place("nowhere", 0), outs("lost"))
        assert await log.offer(A0, outs("c"))
        await log.emit(A0, outs("d"))
        assert values(await everything(log, A0)) == ["a", "b", "c", "d"]

    async def test_an_emit_waits_for_its_topic(self, connect: Connect) -> None:
        """A topic that is made a moment later gets the record."""
        log = await connect("one")
        early = asyncio.create_task(log.emit(A0, outs("early")))
        await log.ensure([spec("other")])
        await log.ensure([spec()])
        async with asyncio.timeout(DEADLINE_SECONDS):
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
        waiting = asyncio.create_task(reader.read(DEADLINE_SECONDS * 100))
        await log.emit(A0, outs("news"))
        async with asyncio.timeout(DEADLINE_SECONDS):
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
        with pytest.raises(PositionLost, match=r"Offset 7 of .*\[0\].* holds 0 to 1"):
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


class LogKit(EmitKit, ReaderKit, TransactorKit, TopicsKit):
    """All promises of the port."""
