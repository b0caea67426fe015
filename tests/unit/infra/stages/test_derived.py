"""State derived from the log: what is live after a start, what L and U are, and in which order things are heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from llmos.infra.log.port import Commit, Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.derived import Derived
from llmos.infra.stages.ownership import RECOMMIT_SECONDS
from llmos.schemas.errors import CommitMissing
from llmos.schemas.job import Origin
from tests.kit.bench import PARTITIONS, Bench, configured, on_bench

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

GROUP = "deciders"
SEALED, USAGE = Place("sealed", 0), Place("usage", 0)
QUICK = configured(scheduler={"commit_seconds": 1.0})


class Listener:
    """Writes down what it hears. A record of `sealed` is the offset of its origin; a receipt is an s."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.lows: list[Mapping[int, int]] = []
        self.turns = 0
        self.is_full = False

    def origin_of(self, record: Record) -> Origin | None:
        """Everything comes from one place; `x` cannot be read."""
        text = (record.value or b"").decode()
        return None if text == "x" else Origin("requests", 0, int(text))

    def submission(self, record: Record, *, restored: bool) -> None:
        """A new, unanswered one."""
        self.heard.append(f"{'old' if restored else 'new'} {record.offset}")

    def receipt(self, record: Record) -> int | None:
        """`x` cannot be read."""
        text = (record.value or b"").decode()
        self.heard.append(f"receipt {text}")
        return None if text == "x" else int(text)

    def other(self, record: Record) -> None:
        """Of another topic."""
        self.heard.append(f"{record.place.topic} {(record.value or b'').decode()}")

    def full(self) -> bool:
        """When the test says so."""
        return self.is_full

    async def turn(self) -> float:
        """The next one is due when something comes."""
        self.turns += 1
        return asyncio.get_running_loop().time() + 1000.0

    async def low(self, lows: Mapping[int, int]) -> None:
        """L has moved."""
        self.lows.append(dict(lows))


async def put(bench: Bench, topic: str, *values: str, p: int = 0) -> None:
    await bench.broker.connect("writer").emit(Place(topic, p), [Out(b"k", value.encode()) for value in values])


def never(times: Mapping[int, float | None]) -> dict[Place, float]:
    """No receipts but those that U asks for."""
    return {}


@asynccontextmanager
async def stage(
    ctx: Context, listener: Listener, others: Mapping[Place, int] | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """The stage is restored and runs; at the end it is stopped in order."""
    derived = Derived(ctx, GROUP, PARTITIONS, listener)
    starts = await derived.restore(never)
    task = asyncio.create_task(derived.run(starts | dict(others or {})))
    try:
        yield task
    finally:
        ctx.stop.set()
        if not task.done():
            await task


def commit(bench: Bench) -> tuple[int, str]:
    """L and U."""
    found = bench.broker.commits[GROUP, SEALED]
    return found.offset, found.metadata.rpartition(" ")[2]


def test_what_is_sealed_and_not_answered_is_live() -> None:
    """After a start the handler hears of exactly these, and of what comes later as new; replays vanish in both."""

    async def main(bench: Bench) -> None:
        await put(bench, "sealed", "0", "1", "2", "1", "x", "3")
        await put(bench, "usage", "2", "0")
        listener = Listener()
        async with stage(bench.context(), listener):
            assert listener.heard == ["receipt 2", "receipt 0", "old 1", "old 5"]
            listener.heard.clear()
            await put(bench, "sealed", "3", "4", "2")
            await asyncio.sleep(0.1)
            assert listener.heard == ["new 7"]

    on_bench(main, settings=QUICK)


def test_l_is_the_lowest_unanswered() -> None:
    """It moves over answered ones in order only, and the handler is told when it has moved; U is the lowest receipt above."""

    async def main(bench: Bench) -> None:
        listener = Listener()
        await put(bench, "sealed", "0", "1", "2", "3")
        async with stage(bench.context(), listener):
            await put(bench, "usage", "2")
            await asyncio.sleep(3.0)
            assert (commit(bench), listener.lows) == ((0, "U=0"), [])
            await put(bench, "usage", "0", "1")
            await asyncio.sleep(3.0)
            assert (commit(bench), listener.lows) == ((3, "U=3"), [{0: 3}])
            await put(bench, "sealed", "4")
            await put(bench, "usage", "4")
            await asyncio.sleep(3.0)
            assert (commit(bench), listener.lows) == ((3, "U=3"), [{0: 3}])
        assert (commit(bench), listener.lows) == ((3, "U=3"), [{0: 3}])

    on_bench(main, settings=QUICK)


def test_the_next_life_goes_on_from_l() -> None:
    """It hears only of what is live above L, though below L everything was trimmed away."""

    async def main(bench: Bench) -> None:
        await put(bench, "sealed", "0", "1", "2", "3")
        await put(bench, "usage", "0", "1", "3")
        async with stage(bench.context(), Listener()):
            pass
        assert commit(bench) == (2, "U=2")
        bench.broker.trim(SEALED, 2)
        bench.broker.trim(USAGE, 2)
        listener = Listener()
        await put(bench, "sealed", "1", "4")
        async with stage(bench.context("again"), listener):
            assert listener.heard == ["receipt 3", "old 2", "old 5"]
        assert commit(bench) == (2, "U=2")

    on_bench(main, settings=QUICK)


def test_older_receipts_are_read_where_keys_may_be_bound() -> None:
    """The handler is told the append time at L and may ask for receipts from before it; they move nothing else."""

    async def main(bench: Bench) -> None:
        for s in range(3):
            await put(bench, "sealed", str(s))
            await put(bench, "usage", str(s))
            await asyncio.sleep(10.0)
        async with stage(bench.context(), Listener()):
            pass
        await put(bench, "sealed", "3")
        told: list[Mapping[int, float | None]] = []
        appended = bench.clock.now()

        def window(times: Mapping[int, float | None]) -> dict[Place, float]:
            told.append(times)
            return {Place("usage", p): (at or bench.clock.now()) - 15.0 for p, at in times.items()}

        listener = Listener()
        await Derived(bench.context("again"), GROUP, PARTITIONS, listener).restore(window)
        assert told == [{0: pytest.approx(appended, abs=0.1), 1: None}]
        assert listener.heard == ["receipt 2", "old 3"]
        assert commit(bench) == (3, "U=3")

    on_bench(main, settings=QUICK)


def test_in_one_read_the_weightiest_comes_first() -> None:
    """A higher term before everything, cancels and tenants before jobs, receipts before submissions."""

    async def main(bench: Bench) -> None:
        names = ("sealed", "usage", "telemetry", "control", "tenants", "epochs")
        for name in names:
            await put(bench, name, "0")
        ctx, listener = bench.context(), Listener()
        derived = Derived(ctx, GROUP, PARTITIONS, listener)
        starts = await derived.restore(never)
        listener.heard.clear()
        for name in names:
            await put(bench, name, "1")
        task = asyncio.create_task(derived.run(starts | {Place(name, 0): 1 for name in names}))
        await asyncio.sleep(0.1)
        ctx.stop.set()
        await task
        assert listener.heard == ["epochs 1", "tenants 1", "control 1", "telemetry 1", "receipt 1"]
        assert commit(bench)[0] == 2, "the submission came behind its receipt and was answered already"

    on_bench(main, settings=QUICK)


def test_a_full_handler_leaves_jobs_in_the_log() -> None:
    """Everything else is heard, so that room comes: `sealed` waits, in order, until then."""

    async def main(bench: Bench) -> None:
        listener = Listener()
        await put(bench, "sealed", "0")
        async with stage(bench.context(), listener, {Place("control", 0): 0}):
            listener.is_full = True
            await asyncio.sleep(1.0)
            listener.heard.clear()
            await put(bench, "sealed", "1", "2")
            await put(bench, "usage", "0")
            await put(bench, "control", "stop")
            await asyncio.sleep(1.0)
            assert sorted(listener.heard) == ["control stop", "receipt 0"]
            listener.is_full = False
            await asyncio.sleep(1.0)
            assert listener.heard[2:] == ["new 1", "new 2"]

    on_bench(main, settings=QUICK)


def test_records_bring_turns() -> None:
    """The handler takes a turn at once when something comes, not when the next was due."""

    async def main(bench: Bench) -> None:
        listener = Listener()
        async with stage(bench.context(), listener, {Place("telemetry", 0): 0}):
            await asyncio.sleep(0.1)
            before = listener.turns
            await put(bench, "telemetry", "beat")
            await asyncio.sleep(0.01)
            assert (listener.turns, listener.heard) == (before + 1, ["telemetry beat"])

    on_bench(main, settings=QUICK)


def test_idle_partitions_are_committed_hourly() -> None:
    """Committed offsets expire with their metadata: they are written again, and not before."""

    async def main(bench: Bench) -> None:
        await put(bench, "sealed", "0")
        async with stage(bench.context(), Listener()):
            await asyncio.sleep(5.0)
            expired = bench.broker.commits.pop((GROUP, SEALED))
            await asyncio.sleep(RECOMMIT_SECONDS - 60)
            assert (GROUP, SEALED) not in bench.broker.commits
            await asyncio.sleep(60)
            assert bench.broker.commits[GROUP, SEALED] == expired

    on_bench(main, settings=QUICK)


def test_an_unreadable_receipt_answers_nothing() -> None:
    """It is stepped over; those behind it count."""

    async def main(bench: Bench) -> None:
        await put(bench, "sealed", "0", "1")
        async with stage(bench.context(), Listener()):
            await put(bench, "usage", "x", "0")
            await asyncio.sleep(2.0)
            assert commit(bench)[0] == 1

    on_bench(main, settings=QUICK)


@pytest.mark.parametrize("found", [None, Commit(1, " U=0"), Commit(2, "of another hand")])
def test_a_start_that_could_lose_jobs_is_refused(found: Commit | None) -> None:
    """No commit though the beginning is gone, a commit below the log, metadata of another hand."""

    async def main(bench: Bench) -> None:
        await put(bench, "sealed", "0", "1", "2")
        bench.broker.trim(SEALED, 2)
        if found is not None:
            bench.broker.commits[GROUP, SEALED] = found
        with pytest.raises(CommitMissing):
            await Derived(bench.context(), GROUP, PARTITIONS, Listener()).restore(never)

    on_bench(main, settings=QUICK)
