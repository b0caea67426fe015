"""The one transactional writer: answers once, over crashes and successors; a reply topic never blocks a partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest

from llmos.infra.log.memory import Fate, MemoryLog, ScriptedFaults
from llmos.infra.log.memory.faults import Operation
from llmos.infra.log.memory.transactor import MemoryTransactor
from llmos.infra.log.port import COPY_SECONDS, Commit, Out, Place, Record, Refusal, TopicSpec
from llmos.infra.runtime.context import Context
from llmos.infra.stages.answered import Answered, Marks
from llmos.infra.stages.ownership import RECOMMIT_SECONDS
from llmos.infra.stages.transactional import Ready, Transactional
from llmos.schemas.base import encode
from llmos.schemas.errors import Ambiguous, CommitMissing, Fenced
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.results import USAGE, Receipt
from tests.kit.bench import Bench, configured, on_bench, origin

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

GROUP = "answers"
NAMES = [["a", "b"], []]
PARTIALS = Place("partials", 0)
HUNG = Place("reply.hung", 0)
QUICK = configured(aggregator={"commit_seconds": 1.0})


class Copier:
    """Answers each s once: a record is `s`, `s>topic` with a copy, `s+` of a job whose other half is out, `s L` for L."""

    def __init__(self) -> None:
        self.held: int | None = None
        self.written: list[int] = []
        self._made: set[int] = set()

    async def feed(self, place: Place, records: Sequence[Record], answered: Answered) -> list[Ready]:
        """Ready answers, in order."""
        ready = []
        for record in records:
            text = (record.value or b"").decode()
            word, _, topic = text.partition(">")
            s = int(word.rstrip("+L "))
            if word.endswith("L"):
                answered.raise_low(s)
            elif word.endswith("+"):
                self.held = record.offset
            elif s not in answered and s not in self._made:
                self._made.add(s)
                receipt = Receipt(
                    job_id=b"j" * 16, tenant="demo", partition=0, s=s, status="completed", origin=origin()
                )
                out = Out(b"k", f"answer {text}".encode())
                copy = (Place(topic, 0), out) if topic else None
                ready.append(Ready(place, s, out, Out(b"k", encode(receipt)), copy))
        return ready

    def held_from(self, place: Place) -> int | None:
        """Where the half job began."""
        return self.held if place == PARTIALS else None

    def without_copy(self, ready: Ready, refusal: Refusal) -> Ready:
        """The receipt says why."""
        receipt = msgspec.structs.replace(USAGE.decode(ready.receipt.value), reply_failed=refusal.reason)
        return Ready(ready.place, ready.s, ready.result, Out(b"k", encode(receipt)), None)

    async def answered(self, written: Sequence[Ready]) -> None:
        """These are committed."""
        self.written += [ready.s for ready in written]


def make(ctx: Context, merger: Copier, names: Sequence[Sequence[str]] = NAMES) -> Transactional:
    return Transactional(ctx, GROUP, [0], names, merger)


@asynccontextmanager
async def stage(ctx: Context, merger: Copier) -> AsyncIterator[asyncio.Task[None]]:
    """The stage runs; at the end it is stopped in order."""
    task = asyncio.create_task(make(ctx, merger).run())
    try:
        yield task
    finally:
        ctx.stop.set()
        if not task.done():
            await task


async def put(bench: Bench, *values: str) -> None:
    await bench.broker.connect("client").emit(PARTIALS, [Out(b"k", value.encode()) for value in values])


def results(bench: Bench) -> str:
    return " ".join(value.decode().removeprefix("answer ") for value in bench.values("results"))


def receipts(bench: Bench) -> dict[int, str]:
    """s → why there is no copy."""
    found = [USAGE.decode(value) for value in bench.values("usage")]
    assert len({receipt.s for receipt in found}) == len(found)
    return {receipt.s: receipt.reply_failed for receipt in found}


def commit(bench: Bench) -> tuple[int, Marks]:
    found = bench.broker.commits[GROUP, PARTIALS]
    return found.offset, Marks.load(found.metadata)


def test_answers_and_receipts_come_together() -> None:
    """One answer and one receipt for each s, whatever comes twice; the merger hears of them after the commit."""

    async def main(bench: Bench) -> None:
        merger = Copier()
        async with stage(bench.context(), merger):
            await put(bench, "0", "1", "0", "2")
            await asyncio.sleep(1.0)
            await put(bench, "1", "3")
            await asyncio.sleep(1.0)
        assert (results(bench), list(receipts(bench))) == ("0 1 2 3", [0, 1, 2, 3])
        assert merger.written == [0, 1, 2, 3]
        assert commit(bench) == (6, Marks(0, 0))

    on_bench(main, settings=QUICK)


def test_two_producers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit right after another of the same producer would wait, so the next transaction is the other's."""
    names: list[str] = []
    original = MemoryTransactor.transact

    async def transact(self: MemoryTransactor, batches: dict[Place, Sequence[Out]]) -> dict[Place, int]:
        names.append(self._name)
        return await original(self, batches)

    monkeypatch.setattr(MemoryTransactor, "transact", transact)

    async def main(bench: Bench) -> None:
        async with stage(bench.context(), Copier()):
            for s in range(4):
                await put(bench, str(s))
                await asyncio.sleep(0.1)

    on_bench(main, settings=QUICK)
    assert names == ["a", "b", "a", "b"]


def test_a_successor_answers_nothing_again() -> None:
    """It crashes after its answers and before its commit; the next life knows them from their receipts."""

    async def main(bench: Bench) -> None:
        ctx = bench.context()
        await put(bench, "5 L", "5", "6", "7")
        task = asyncio.create_task(make(ctx, Copier()).run())
        await asyncio.sleep(0.5)
        assert commit(bench) == (0, Marks(0, 0))
        assert isinstance(ctx.log, MemoryLog)
        ctx.log.crash()
        await asyncio.wait([task], timeout=100)
        task.exception()
        merger = Copier()
        async with stage(bench.context("again"), merger):
            await put(bench, "8", "4")
            await asyncio.sleep(1.0)
        assert results(bench) == "5 6 7 8"
        assert merger.written == [8]
        assert commit(bench) == (6, Marks(5, 0))

    on_bench(main, settings=QUICK)


def test_v_is_where_a_successor_must_read() -> None:
    """Receipts below L are left out of V; what lies between V and L's receipts is enough to know everything."""

    async def main(bench: Bench) -> None:
        async with stage(bench.context(), Copier()):
            for s in range(5):
                await put(bench, str(s))
                await asyncio.sleep(0.1)
            await put(bench, "3 L")
            await asyncio.sleep(2.0)
            offset, marks = commit(bench)
            first = USAGE.decode(bench.broker.dump("usage")[0][marks.usage_from].record.value)
            assert (offset, marks.low, first.s) == (6, 3, 3)
        bench.broker.trim(Place("usage", 0), marks.usage_from)
        async with stage(bench.context("again"), Copier()):
            await put(bench, "0", "1", "2", "3", "4", "5")
            await asyncio.sleep(1.0)
        assert results(bench) == "0 1 2 3 4 5"

    on_bench(main, settings=QUICK)


def test_half_jobs_hold_the_commit_back() -> None:
    """The next life must read the first half again, though everything behind it is answered."""

    async def main(bench: Bench) -> None:
        merger = Copier()
        async with stage(bench.context(), merger):
            await put(bench, "0", "1+", "2")
            await asyncio.sleep(3.0)
            assert (results(bench), commit(bench)) == ("0 2", (1, Marks(0, 0)))
            merger.held = None
            await put(bench, "1")
            await asyncio.sleep(3.0)
            assert commit(bench)[0] == 4

    on_bench(main, settings=QUICK)


def test_idle_partitions_are_committed_hourly() -> None:
    """Committed offsets expire with their metadata: they are written again, and not before."""

    async def main(bench: Bench) -> None:
        async with stage(bench.context(), Copier()):
            await put(bench, "0")
            await asyncio.sleep(5.0)
            expired = bench.broker.commits.pop((GROUP, PARTIALS))
            await asyncio.sleep(RECOMMIT_SECONDS - 60)
            assert (GROUP, PARTIALS) not in bench.broker.commits
            await asyncio.sleep(60)
            assert bench.broker.commits[GROUP, PARTIALS] == expired

    on_bench(main, settings=QUICK)


def test_a_newer_life_fences_the_older() -> None:
    """A zombie that answers after its successor has started writes nothing and ends."""

    async def main(bench: Bench) -> None:
        old = bench.context("old")
        task = asyncio.create_task(make(old, Copier()).run())
        await asyncio.sleep(0.5)
        assert isinstance(old.log, MemoryLog)
        old.log.freeze()
        await put(bench, "0")
        async with stage(bench.context("new"), Copier()):
            await asyncio.sleep(1.0)
            old.log.thaw()
            await asyncio.wait([task], timeout=100)
        assert isinstance(task.exception(), Fenced)
        assert results(bench) == "0"

    on_bench(main, settings=QUICK)


def test_writers_of_another_layout_are_fenced_first() -> None:
    """Before anything is read, the producers of other n that overlap are initialised."""

    async def main(bench: Bench) -> None:
        before = await bench.broker.connect("before").transactor("other n")
        ctx = bench.context()
        task = asyncio.create_task(make(ctx, Copier(), [["a", "b"], ["other n"]]).run())
        await asyncio.sleep(0.5)
        with pytest.raises(Fenced):
            await before.transact({Place("results", 0): [Out(b"k", b"late")]})
        ctx.stop.set()
        await task

    on_bench(main, settings=QUICK)


@pytest.mark.parametrize(
    ("records", "failed", "copies"),
    [
        pytest.param(["0", "1>reply.x", "2"], {}, "1>reply.x", id="a topic that is there"),
        pytest.param(["0", "1>reply.gone", "2"], {1}, "", id="a topic that is not"),
        pytest.param(["0>reply.gone", "1>reply.gone"], {0, 1}, "", id="twice"),
        pytest.param(["0>reply.gone", "1>reply.x", "2>reply.lost", "3"], {0, 2}, "1>reply.x", id="several topics"),
        pytest.param(["0>reply.small", "1>reply.x"], {}, "1>reply.x", id="a topic with small records takes small ones"),
    ],
)
def test_a_reply_topic_never_blocks_a_partition(records: list[str], failed: set[int], copies: str) -> None:
    """Every answer is written once; those whose copy cannot be say so in their receipt, the others keep theirs."""

    async def main(bench: Bench) -> None:
        bench.broker.create(
            [TopicSpec("reply.x", 1, 3600.0, False, 1000), TopicSpec("reply.small", 1, 3600.0, False, 1)]
        )
        async with stage(bench.context(), Copier()):
            await put(bench, *records)
            await asyncio.sleep(1.0)
        assert sorted(results(bench).split()) == sorted(records)
        assert {s for s, reason in receipts(bench).items() if reason} == set(failed)
        assert [value.decode() for value in bench.values("reply.x")] == ([f"answer {copies}"] if copies else [])

    on_bench(main, settings=QUICK)


def test_only_the_answer_that_is_too_large_loses_its_copy() -> None:
    """Two copies for one topic whose records may be small only: the small one goes there, the large one is left out."""

    async def main(bench: Bench) -> None:
        bench.broker.create([TopicSpec("reply.small", 1, 3600.0, False, 1)])
        large = "1" + " " * 70_000 + ">reply.small"
        async with stage(bench.context(), Copier()):
            await put(bench, "0>reply.small", large, "2>reply.small")
            await asyncio.sleep(1.0)
        assert bench.values("reply.small") == [b"answer 0>reply.small", b"answer 2>reply.small"]
        assert [s for s, reason in receipts(bench).items() if reason] == [1]
        assert sorted(receipts(bench)) == [0, 1, 2]

    on_bench(main, settings=QUICK)


def test_each_topic_that_refuses_something_is_tried_by_itself() -> None:
    """Large answers for two topics of small records lose their copies, small ones for the same topics keep them."""

    async def main(bench: Bench) -> None:
        bench.broker.create([TopicSpec(f"reply.{name}", 1, 3600.0, False, 1) for name in "ab"])
        pad = " " * 70_000
        async with stage(bench.context(), Copier()):
            await put(bench, f"0{pad}>reply.a", "1>reply.a", f"2{pad}>reply.b", "3>reply.b", "4")
            await asyncio.sleep(1.0)
        assert [bench.values(f"reply.{name}") for name in "ab"] == [[b"answer 1>reply.a"], [b"answer 3>reply.b"]]
        assert [s for s, reason in sorted(receipts(bench).items()) if reason] == [0, 2]
        assert sorted(receipts(bench)) == [0, 1, 2, 3, 4]

    on_bench(main, settings=QUICK)


class OneHangs:
    """A topic that takes nothing and refuses nothing."""

    def fate(self, client: str, operation: Operation, place: Place | None, random: Random) -> Fate:
        """Lost, for that topic."""
        return Fate(apply_after=None if place is not None and place.topic == HUNG.topic else 0.0)


def test_a_reply_topic_that_hangs_costs_a_moment() -> None:
    """Its answers go without their copies, those beside it with theirs; nobody ends."""

    async def main(bench: Bench) -> None:
        bench.broker.create([TopicSpec(topic, 1, 3600.0, False, 1000) for topic in ("reply.x", HUNG.topic)])
        bench.broker.faults = OneHangs()
        async with stage(bench.context(), Copier()) as task:
            await put(bench, "0>reply.x", f"1>{HUNG.topic}", "2", f"3>{HUNG.topic}")
            await asyncio.sleep(2 * COPY_SECONDS)
            await put(bench, "4>reply.x")
            await asyncio.sleep(1.0)
            assert not task.done()
        assert sorted(results(bench).split()) == sorted(
            ["0>reply.x", f"1>{HUNG.topic}", "2", f"3>{HUNG.topic}", "4>reply.x"]
        )
        assert {s: reason for s, reason in receipts(bench).items() if reason} == dict.fromkeys(
            (1, 3), f"it took nothing for {COPY_SECONDS:g} s"
        )
        assert bench.values("reply.x") == [b"answer 0>reply.x", b"answer 4>reply.x"]
        assert bench.values(HUNG.topic) == []

    on_bench(main, settings=QUICK)


def test_what_no_copy_explains_ends_the_process() -> None:
    """Where `results` itself refuses an answer nothing can be left out: nobody may go on as if it were written."""

    async def main(bench: Bench) -> None:
        async with stage(bench.context(), Copier()) as task:
            await put(bench, "0" + " " * (RECORD_BYTES - 3))
            await asyncio.wait([task], timeout=100)
        assert isinstance(task.exception(), Ambiguous)
        assert results(bench) == ""

    on_bench(main, settings=QUICK)


def test_a_commit_of_unknown_end_ends_the_process() -> None:
    """The transaction may have been committed: only a new start, which reads the receipts, may answer."""

    async def main(bench: Bench) -> None:
        async with stage(bench.context("lost"), Copier()) as task:
            await put(bench, "0")
            await asyncio.wait([task], timeout=100)
        assert isinstance(task.exception(), Ambiguous)
        async with stage(bench.context("again"), Copier()):
            await asyncio.sleep(1.0)
        assert results(bench) == "0"

    on_bench(main, ScriptedFaults([("lost", "end", Fate(ack_after=None))]), QUICK)


@pytest.mark.parametrize("found", [None, Commit(1, "L=0 V=0"), Commit(2, "of another hand")])
def test_a_start_that_could_lose_answers_is_refused(found: Commit | None) -> None:
    """No commit though the beginning is gone, a commit below the log, metadata of another hand."""

    async def main(bench: Bench) -> None:
        await put(bench, "0", "1", "2")
        bench.broker.trim(PARTIALS, 2)
        if found is not None:
            bench.broker.commits[GROUP, PARTIALS] = found
        with pytest.raises(CommitMissing):
            await make(bench.context(), Copier()).run()

    on_bench(main, settings=QUICK)
