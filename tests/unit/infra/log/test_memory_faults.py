"""Crashes, zombies, late and lost batches of the log in memory; the same seed gives the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from llmos.infra.log.memory import Crashed, Fate, Faults, MemoryBroker, RandomFaults, ScriptedFaults
from llmos.infra.log.port import Commit, Place
from llmos.infra.simulation import VirtualClock, run
from llmos.schemas.errors import Ambiguous, Fenced, PositionLost
from tests.kit.log_bench import A0, A1, collect, everything, outs, spec, values


def simulate(main: Callable[[MemoryBroker], Awaitable[None]], faults: Faults | None = None, seed: int = 0) -> None:
    """Runs `main` on a broker with topic `a`, in virtual time."""

    async def go() -> None:
        broker = MemoryBroker(VirtualClock(asyncio.get_running_loop()), seed, faults)
        broker.create([spec()])
        await main(broker)

    run(go, seed)


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(("survives", "there"), [(True, ["0"]), (False, [])])
def test_a_crash_with_a_batch_on_its_way(survives: bool, there: list[str]) -> None:
    """The caller ends with `Crashed`; the batch arrives later, or never."""

    async def main(broker: MemoryBroker) -> None:
        log = broker.connect("dead")
        call = asyncio.create_task(log.emit(A0, outs("0")))
        await asyncio.sleep(1.0)
        log.crash()
        with pytest.raises(Crashed):
            await call
        assert await everything(broker.connect("checker"), A0) == []
        await asyncio.sleep(10.0)
        assert values(await everything(broker.connect("checker"), A0)) == there

    simulate(main, ScriptedFaults([("dead", "emit", Fate(apply_after=5.0, survives=survives))]))


def test_a_late_batch_comes_behind_its_successors() -> None:
    """What a dead client sent may be applied after its next life has written: a replay in the middle."""

    async def main(broker: MemoryBroker) -> None:
        log = broker.connect("dead")
        call = asyncio.create_task(log.emit(A0, outs("late")))
        await asyncio.sleep(1.0)
        log.crash()
        await broker.connect("next").emit(A0, outs("next"))
        await asyncio.sleep(5.0)
        assert values(await everything(broker.connect("checker"), A0)) == ["next", "late"]
        with pytest.raises(Crashed):
            await call

    simulate(main, ScriptedFaults([("dead", "emit", Fate(apply_after=3.0))]))


@pytest.mark.parametrize(
    ("fate", "there"),
    [(Fate(apply_after=None), []), (Fate(ack_after=None), ["0"])],
    ids=["never applied", "applied, never heard of"],
)
def test_without_an_acknowledgement_an_emit_is_ambiguous(fate: Fate, there: list[str]) -> None:
    """After the time for a request; nothing is sent behind it."""

    async def main(broker: MemoryBroker) -> None:
        log = broker.connect("one")
        with pytest.raises(Ambiguous):
            await log.emit(A0, outs("0"))
        assert now() == pytest.approx(broker.request_seconds)
        with pytest.raises(Ambiguous):
            await log.emit(A1, outs("1"))
        assert values(await everything(broker.connect("checker"), A0)) == there

    simulate(main, ScriptedFaults([("one", "emit", fate)]))


def test_everything_ends_with_a_crash() -> None:
    """Calls that wait, calls that come later, and closing is quiet."""

    async def main(broker: MemoryBroker) -> None:
        log = broker.connect("dead")
        reader = log.reader("g")
        reader.assign({A0: 0})
        transactor = await log.transactor("t")
        waiting = asyncio.create_task(reader.read(1000.0))
        await asyncio.sleep(1.0)
        log.crash()
        assert log.crashed
        with pytest.raises(Crashed):
            await waiting
        later = [
            lambda: log.emit(A0, outs("0")),
            lambda: transactor.transact({A0: outs("0")}),
            lambda: reader.read(0.0),
            lambda: reader.commit({A0: Commit(0)}),
            lambda: log.ends([A0]),
            lambda: log.committed("g", [A0]),
            lambda: log.transactor("t"),
            lambda: log.partitions("a"),
            lambda: log.ensure([]),
        ]
        for call in later:
            with pytest.raises(Crashed):
                await call()
        await reader.close()
        await transactor.close()
        await log.close()
        assert await everything(broker.connect("checker"), A0) == []

    simulate(main)


def test_a_zombie_goes_on_and_is_fenced() -> None:
    """Frozen in the middle of a transaction, it wakes up after its successor has started, and wrote nothing."""

    async def main(broker: MemoryBroker) -> None:
        zombie = broker.connect("zombie")
        old = await zombie.transactor("t")
        call = asyncio.create_task(old.transact({A0: outs("old"), A1: outs("old")}))
        await asyncio.sleep(1.0)  # both batches are at the broker, their acknowledgements are not back
        zombie.freeze()
        await asyncio.sleep(5.0)
        log = broker.connect("next")
        new = await log.transactor("t")
        await new.transact({A0: outs("new")})
        assert not call.done(), "a frozen process does nothing"
        zombie.thaw()
        with pytest.raises(Ambiguous):
            await call
        assert values(await everything(log, A0)) == ["new"]
        assert values(await everything(log, A1)) == []
        assert [stored.state for stored in broker.dump("a")[0]] == ["aborted", "marker", "committed", "marker"]

    simulate(main, ScriptedFaults([("zombie", "deliver", Fate(ack_after=2.0))] * 2))


def test_a_zombie_that_began_nothing_is_fenced() -> None:
    """It hears so at its next transaction; it emits all the same, nothing fences that."""

    async def main(broker: MemoryBroker) -> None:
        zombie, log = broker.connect("zombie"), broker.connect("next")
        old = await zombie.transactor("t")
        zombie.freeze()
        call = asyncio.create_task(old.transact({A0: outs("old")}))
        plain = asyncio.create_task(zombie.emit(A1, outs("zombie")))
        await log.transactor("t")
        await asyncio.sleep(1.0)
        assert not call.done()
        assert not plain.done()
        zombie.thaw()
        with pytest.raises(Fenced):
            await call
        assert await plain == 0

    simulate(main)


def test_a_dead_writers_transaction_holds_readers_back_until_it_expires() -> None:
    """Readers stop at its first record, `ends` does not; the broker aborts it after `transaction_seconds`."""

    async def main(broker: MemoryBroker) -> None:
        dead, log = broker.connect("dead"), broker.connect("one")
        transactor = await dead.transactor("t")
        await log.emit(A0, outs("before"))
        call = asyncio.create_task(transactor.transact({A0: outs("open")}))
        await asyncio.sleep(1.0)
        dead.crash()
        with pytest.raises(Crashed):
            await call
        await log.emit(A0, outs("behind"))
        reader = log.reader()
        reader.assign({A0: 0})
        assert values(await collect(reader, 1)) == ["before"]
        assert await reader.read(1.0) == {}
        assert (reader.position(A0), await log.ends([A0])) == (1, {A0: 3})
        assert values((await reader.read(1000.0))[A0]) == ["behind"]
        assert now() == pytest.approx(broker.transaction_seconds, abs=1.0)
        assert reader.position(A0) == 4

    simulate(main, ScriptedFaults([("dead", "deliver", Fate(ack_after=None))]))


def test_a_commit_becomes_visible_with_its_marker() -> None:
    """The writer hears of its commit first; a transactor that starts in between finds the markers written."""

    async def main(broker: MemoryBroker) -> None:
        log = broker.connect("one")
        transactor = await log.transactor("t")
        await transactor.transact({A0: outs("0")})
        reader = log.reader()
        reader.assign({A0: 0})
        assert await reader.read(1.0) == {}
        assert [stored.state for stored in broker.dump("a")[0]] == ["open"]
        await log.transactor("t")
        assert values((await reader.read(0.0))[A0]) == ["0"]
        await asyncio.sleep(60.0)
        assert [stored.state for stored in broker.dump("a")[0]] == ["committed", "marker"]

    simulate(main, ScriptedFaults([("one", "end", Fate(marker_after=5.0))]))


@pytest.mark.parametrize(("survives", "found"), [(True, Commit(1, "m")), (False, None)])
def test_a_crash_while_committing_offsets(survives: bool, found: Commit | None) -> None:
    """It is committed later, or not."""

    async def main(broker: MemoryBroker) -> None:
        dead, log = broker.connect("dead"), broker.connect("one")
        reader = dead.reader("g")
        reader.assign({A0: 0})
        call = asyncio.create_task(reader.commit({A0: Commit(1, "m")}))
        await asyncio.sleep(1.0)
        dead.crash()
        with pytest.raises(Crashed):
            await call
        await asyncio.sleep(5.0)
        assert await log.committed("g", [A0]) == {A0: found}

    simulate(main, ScriptedFaults([("dead", "commit", Fate(apply_after=3.0, survives=survives))]))


def test_what_retention_removed_cannot_be_read() -> None:
    """`begins` moves, and a position below is an error."""

    async def main(broker: MemoryBroker) -> None:
        log = broker.connect("one")
        await log.emit(A0, outs("0", "1", "2"))
        broker.trim(A0, 2)
        assert await log.begins([A0]) == {A0: 2}
        assert values(await everything(log, A0)) == ["2"]
        reader = log.reader()
        reader.assign({A0: 1})
        with pytest.raises(PositionLost, match=r"Offset 1 of .* holds 2 to 3"):
            await reader.read(1.0)
        with pytest.raises(KeyError):
            broker.trim(Place("missing", 0), 1)

    simulate(main)


def test_times_are_the_clocks() -> None:
    """LogAppendTime is when the broker appends, CreateTime when the client sent."""

    async def main(broker: MemoryBroker) -> None:
        broker.create([spec("stamped", 1, append_time=True)])
        log = broker.connect("one")
        stamped = Place("stamped", 0)
        await asyncio.sleep(10.0)
        await log.emit(A0, outs("0"))
        await log.emit(stamped, outs("0"))
        created = (await everything(log, A0))[0].timestamp
        appended = (await everything(log, stamped))[0].timestamp
        assert (created, appended) == pytest.approx((1_700_000_010.0, 1_700_000_018.0))
        assert await log.offsets_at({stamped: appended}) == {stamped: 0}
        assert await log.offsets_at({stamped: appended + 1}) == {stamped: 1}

    simulate(main, ScriptedFaults([("one", "emit", Fate(apply_after=3.0)), ("one", "emit", Fate(apply_after=5.0))]))


def _story(seed: int) -> list[str]:
    """What ends up in the log when three clients write at random, and one dies."""
    told: list[str] = []

    async def main(broker: MemoryBroker) -> None:
        async def write(name: str) -> None:
            log = broker.connect(name)
            if name == "b":
                asyncio.get_running_loop().call_later(0.05, log.crash)
            for turn in range(20):
                await log.emit(A0, outs(f"{name}{turn}"))

        await asyncio.gather(*(write(name) for name in "abc"), return_exceptions=True)
        await asyncio.sleep(60.0)
        told.extend(values(await everything(broker.connect("checker"), A0)))

    simulate(main, RandomFaults(late=0.1, unheard=0.02, lost=0.02), seed)
    return told


def test_a_seed_repeats_the_run() -> None:
    """Same seed, same log; other seeds, other logs; a client's own records are never out of order."""
    stories = [_story(seed) for seed in range(10)]
    assert [_story(seed) for seed in range(10)] == stories
    assert len({tuple(story) for story in stories}) > 5
    for story in stories:
        for name in "abc":
            turns = [int(value[1:]) for value in story if value[0] == name]
            assert turns == list(range(len(turns)))
