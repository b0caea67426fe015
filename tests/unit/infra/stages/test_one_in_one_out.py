"""One record in, one record out: pauses, commits behind acknowledgements, starts that are allowed and that are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from llmos.infra.log.memory import Fate, MemoryLog, ScriptedFaults
from llmos.infra.log.port import Commit, Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.one_in_one_out import (
    RECOMMIT_SECONDS,
    DeadLettered,
    Emitted,
    OneInOneOut,
    Repeated,
    Settlement,
)
from llmos.infra.stages.origins import Origins
from llmos.schemas.errors import Ambiguous, CommitMissing
from llmos.schemas.job import Origin
from tests.kit.bench import Bench, on_bench

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

GROUP = "copier"
SOURCES = [Place("requests", 0), Place("requests", 1)]
TARGET = Place("admitted", 0)
DEAD = Place("dead", 0)


class Copier:
    """Copies each record; `credits` end, `d…` is dead, `r…` was seen before. Remembers every origin."""

    def __init__(self, credits: int = 1000) -> None:
        self.credits = credits
        self.willing = False
        self.asked = 0
        self.paused: list[Place] = []

    async def settle(self, place: Place, records: Sequence[Record], origins: Origins) -> Sequence[Settlement]:
        """As far as credits reach."""
        settled: list[Settlement] = []
        for record in records[: self.credits]:
            value = record.value or b""
            out = Out(record.key, value)
            origins.accept(Origin(*place, record.offset))
            if value.startswith(b"r"):
                settled.append(Repeated())
            else:
                settled.append(DeadLettered(out) if value.startswith(b"d") else Emitted(TARGET, out))
        self.credits -= len(settled)
        return settled

    async def may_resume(self, places: Sequence[Place]) -> bool:
        """When the test says so."""
        self.asked += 1
        self.paused = list(places)
        return self.willing


@asynccontextmanager
async def stage(ctx: Context, handler: Copier, commit_seconds: float = 1.0) -> AsyncIterator[asyncio.Task[None]]:
    """The stage runs; at the end it is stopped in order."""
    task = asyncio.create_task(OneInOneOut(ctx, GROUP, SOURCES, handler, commit_seconds).run())
    try:
        yield task
    finally:
        ctx.stop.set()
        if not task.done():
            await task


async def put(bench: Bench, *values: str, p: int = 0) -> None:
    await bench.broker.connect("client").emit(SOURCES[p], [Out(b"k", value.encode()) for value in values])


def commit(bench: Bench, p: int = 0) -> Commit | None:
    return bench.broker.commits.get((GROUP, SOURCES[p]))


def origins_at(bench: Bench, p: int = 0) -> int:
    """The highest origin in the metadata of the commit, -1 for none: what would be dropped after a start."""
    found = commit(bench, p)
    assert found is not None
    return max((o for o in range(100) if not Origins.load(found.metadata).accept(Origin(*SOURCES[p], o))), default=-1)


def texts(bench: Bench, place: Place = TARGET) -> str:
    return " ".join(value.decode() for value in bench.values(*place))


def test_each_record_becomes_one_in_order() -> None:
    """Emitted, dead and repeated records all move the offset; the commit's map is that of the offset."""

    async def main(bench: Bench) -> None:
        ctx = bench.context()
        await put(bench, "a", "d1", "b", "r1", "c")
        async with stage(ctx, Copier()):
            await asyncio.sleep(0.1)
            assert (texts(bench), texts(bench, DEAD)) == ("a b c", "d1")
        assert commit(bench) is not None
        assert (commit(bench).offset, origins_at(bench)) == (5, 4)  # type: ignore[union-attr]

    on_bench(main)


def test_the_start_is_committed_at_once() -> None:
    """An empty place has a commit too, so that a missing one is an error for ever after."""

    async def main(bench: Bench) -> None:
        async with stage(bench.context(), Copier()):
            await asyncio.sleep(0.01)
            assert [commit(bench, p) for p in (0, 1)] == [Commit(0, Origins().dump())] * 2

    on_bench(main)


def test_where_credits_end_the_place_waits() -> None:
    """The rest is committed as not done, other places go on, and nothing is tried before the handler is willing."""

    async def main(bench: Bench) -> None:
        ctx, handler = bench.context(), Copier(credits=2)
        await put(bench, "a", "b", "c", "d")
        async with stage(ctx, handler):
            await asyncio.sleep(5.0)
            assert texts(bench) == "a b"
            assert commit(bench) is not None
            assert (commit(bench).offset, origins_at(bench)) == (2, 1)  # type: ignore[union-attr]
            assert handler.asked > 3
            assert handler.paused == SOURCES[:1]
            handler.credits = 100
            await put(bench, "e")
            await put(bench, "x", p=1)
            await asyncio.sleep(5.0)
            assert texts(bench) == "a b x", "credits alone are not enough: the handler has its hysteresis"
            handler.willing = True
            await asyncio.sleep(0.1)
            assert texts(bench) == "a b x c e"
            assert texts(bench, DEAD) == "d"
            asked = handler.asked
            await asyncio.sleep(5.0)
            assert handler.asked == asked, "nothing waits any more, so nobody asks"

    on_bench(main)


def test_a_place_may_wait_again_and_again() -> None:
    """Two records at a time: the order is kept and nothing is lost, also of what came meanwhile."""

    async def main(bench: Bench) -> None:
        ctx, handler = bench.context(), Copier(credits=0)
        expected = [f"a{i}" for i in range(9)]
        await put(bench, *expected[:6])
        async with stage(ctx, handler):
            await asyncio.sleep(1.0)
            await put(bench, *expected[6:])
            for done in (2, 4, 6, 8, 9):
                handler.credits, handler.willing = 2, True
                await asyncio.sleep(0.2)
                handler.willing = False
                assert texts(bench) == " ".join(expected[:done])

    on_bench(main)


def test_a_crash_while_waiting_loses_nothing() -> None:
    """The next life reads on from the first record that waited."""

    async def main(bench: Bench) -> None:
        ctx = bench.context()
        await put(bench, "a", "b", "c")
        task = asyncio.create_task(OneInOneOut(ctx, GROUP, SOURCES, Copier(credits=1), 1.0).run())
        await asyncio.sleep(3.0)
        assert isinstance(ctx.log, MemoryLog)
        ctx.log.crash()
        await asyncio.wait([task], timeout=100)
        async with stage(bench.context("again"), Copier()):
            await asyncio.sleep(1.0)
            assert texts(bench) == "a b c"
        task.exception()

    on_bench(main)


def test_idle_places_are_committed_hourly() -> None:
    """Committed offsets expire at the broker although the consumer lives: they are written again, and not before."""

    async def main(bench: Bench) -> None:
        await put(bench, "a")
        async with stage(bench.context(), Copier()):
            await asyncio.sleep(10.0)
            expired = commit(bench)
            assert expired is not None
            del bench.broker.commits[GROUP, SOURCES[0]]
            await asyncio.sleep(RECOMMIT_SECONDS - 60)
            assert commit(bench) is None
            await asyncio.sleep(60)
            assert commit(bench) == expired

    on_bench(main)


def test_commits_are_made_when_due() -> None:
    """Not for every turn: a burst within the interval is one commit, and it comes within two."""

    async def main(bench: Bench) -> None:
        async with stage(bench.context(), Copier(), commit_seconds=10.0):
            await asyncio.sleep(1.0)
            for i in range(5):
                await put(bench, f"a{i}")
                await asyncio.sleep(1.0)
            assert (texts(bench), commit(bench)) == ("a0 a1 a2 a3 a4", Commit(0, Origins().dump()))
            await asyncio.sleep(10.0)
            assert origins_at(bench) == 4

    on_bench(main)


def test_without_a_commit_only_a_whole_log_may_be_read() -> None:
    """From its very beginning, or not at all: beginning at the latest would lose what lies before."""

    async def main(bench: Bench) -> None:
        ctx = bench.context()
        await put(bench, "a", "b", "c")
        bench.broker.trim(SOURCES[0], 1)
        with pytest.raises(CommitMissing, match=r"copier for requests\[0\]"):
            await OneInOneOut(ctx, GROUP, SOURCES, Copier(), 1.0).run()
        assert texts(bench) == ""

    on_bench(main)


def test_a_commit_below_the_log_is_an_error() -> None:
    """What lies between commit and beginning was lost to retention, and somebody must know."""

    async def main(bench: Bench) -> None:
        ctx = bench.context()
        await put(bench, "a", "b", "c")
        bench.broker.commits[GROUP, SOURCES[0]] = Commit(1, "")
        bench.broker.trim(SOURCES[0], 2)
        with pytest.raises(CommitMissing):
            await OneInOneOut(ctx, GROUP, SOURCES, Copier(), 1.0).run()

    on_bench(main)


def test_foreign_metadata_is_an_error() -> None:
    """Another hand committed under the group's name: its map cannot be trusted."""

    async def main(bench: Bench) -> None:
        ctx = bench.context()
        bench.broker.commits[GROUP, SOURCES[0]] = Commit(0, "a tool was here")
        with pytest.raises(CommitMissing):
            await OneInOneOut(ctx, GROUP, SOURCES, Copier(), 1.0).run()

    on_bench(main)


def test_what_nobody_knows_ends_the_process() -> None:
    """An emit without acknowledgement raises, and its records are not committed as done: the next life sends again."""

    async def main(bench: Bench) -> None:
        ctx = bench.context("lost")
        await put(bench, "a")
        async with stage(ctx, Copier()) as task:
            await asyncio.wait([task], timeout=100)
        assert isinstance(task.exception(), Ambiguous)
        assert commit(bench) == Commit(0, Origins().dump())
        async with stage(bench.context("again"), Copier()):
            await asyncio.sleep(1.0)
        assert texts(bench) == "a a", "at least once here; the next stage drops the second by its origin"

    on_bench(main, ScriptedFaults([("lost", "emit", Fate(ack_after=None))]))
