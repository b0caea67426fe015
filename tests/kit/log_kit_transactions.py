"""What every log must do about transactions, topics and offsets; part of `LogKit`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmos.infra.log.port import Out, Place, TopicSpec, Unwritable
from llmos.schemas.errors import Ambiguous, Fenced
from llmos.schemas.limits import RECORD_BYTES
from tests.kit.log_bench import A0, A1, Connect, everything, outs, spec, values


class TransactorKit:
    """Transactions."""

    async def test_settling_shows_nothing_and_fences_nothing(self, connect: Connect) -> None:
        """It adds no record, readers get past it, and the same transactor writes as before; an older one is fenced."""
        log = await connect("one")
        await log.ensure([spec()])
        old = await log.transactor("t")
        new = await log.transactor("t")
        await new.settle([A0, A1])
        await new.transact({A0: outs("a")})
        assert values(await everything(log, A0)) == ["a"]
        assert await everything(log, A1) == []
        with pytest.raises(Ambiguous):
            await old.transact({A0: outs("b")})

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
        small = Place("small", 0)
        await log.ensure([spec(), spec("small", 1, record_bytes=1000)])
        transactor = await log.transactor("t")
        await transactor.transact({A0: outs("0"), small: outs("0")})
        with pytest.raises(Unwritable) as refused:
            await transactor.transact({A0: outs("lost"), place: batch})
        assert list(refused.value.refusals) == [place]
        await transactor.transact({A0: outs("1"), small: outs("1")})
        assert values(await everything(log, A0)) == ["0", "1"]
        assert values(await everything(log, small)) == ["0", "1"]
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
