"""How far back the requests topics are unread, by all instances."""

from __future__ import annotations

import asyncio
import secrets

import msgspec
import pytest

from llmos.infra.crypto.macs import mac
from llmos.infra.log.port import Commit, Out, Place
from llmos.infra.runtime.context import Context
from llmos.infra.settings import load
from llmos.infra.stages.backlog import Reached
from llmos.infra.stages.one_in_one_out import DeadLettered
from llmos.infra.stages.origins import Origins
from llmos.schemas.base import encode
from llmos.schemas.dead import DEAD
from llmos.schemas.requests import Request, signed_bytes
from llmos.services.ingest import app
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.frontier import GROUP, LOOK_SECONDS, READ_SECONDS, Frontier
from llmos.services.ingest.handler import IngestHandler
from tests.kit.bench import NOW, PARTITIONS, SECRET, Bench, HandClock, configured, context, on_bench, record, tenant

FAST, SLOW = Place("requests", 0), Place("requests", 1)
DAY = 86_400.0


async def commit(bench: Bench, place: Place, offset: int) -> None:
    reader = bench.context("ingest").log.reader(GROUP)
    reader.assign({place: offset})
    await reader.commit({place: Commit(offset)})
    await reader.close()


async def put(bench: Bench, place: Place, count: int = 1) -> None:
    await bench.context("client").log.emit(place, [Out(b"k", b"v")] * count)


def test_all_that_is_read_reaches_to_now() -> None:
    """Also where nothing ever came, and where nothing was committed yet."""

    async def main(bench: Bench) -> None:
        await put(bench, FAST, 3)
        await commit(bench, FAST, 3)
        await asyncio.sleep(10)
        assert await Frontier(bench.context(), [FAST, SLOW]).look() == bench.clock.now()

    on_bench(main)


def test_the_slowest_partition_counts_whosever_it_is() -> None:
    """From its first record that no instance has read on."""

    async def main(bench: Bench) -> None:
        frontier = Frontier(bench.context(), [FAST, SLOW])
        await put(bench, SLOW, 2)
        await asyncio.sleep(100)
        first_unread = bench.clock.now()
        await put(bench, SLOW, 5)
        await commit(bench, SLOW, 2)
        await asyncio.sleep(1000)
        await put(bench, FAST)
        assert await frontier.look() == pytest.approx(first_unread, abs=1.0)
        await commit(bench, SLOW, 7)
        assert await frontier.look() == pytest.approx(bench.clock.now(), abs=1.0)

    on_bench(main)


def test_what_this_instance_reads_it_need_not_read_again() -> None:
    """It knows the time of the last record that it settled, committed or not; another one's place it looks at."""

    async def main(bench: Bench) -> None:
        await put(bench, FAST, 9)
        await asyncio.sleep(50)
        reached = {FAST: Reached(5, bench.clock.now() - 20), SLOW: Reached(0, 0.0)}
        frontier = Frontier(bench.context(), [FAST, SLOW], lambda: reached)
        assert await frontier.look() == pytest.approx(bench.clock.now() - 20, abs=0.1)
        reached[FAST] = Reached(9, bench.clock.now() - 20)
        assert await frontier.look() == pytest.approx(bench.clock.now(), abs=0.1)
        await put(bench, SLOW)
        await asyncio.sleep(70)
        assert await frontier.look() == pytest.approx(bench.clock.now() - 70, abs=1.0)

    on_bench(main)


def test_never_committed_is_unread() -> None:
    """An instance that never started has read nothing."""

    async def main(bench: Bench) -> None:
        await put(bench, SLOW)
        at = bench.clock.now()
        await asyncio.sleep(500)
        assert await Frontier(bench.context(), [FAST, SLOW]).look() == pytest.approx(at, abs=1.0)

    on_bench(main)


def test_it_is_no_older_than_what_the_log_keeps() -> None:
    """Seven days: what is older is gone, and can be read by nobody."""

    async def main(bench: Bench) -> None:
        await put(bench, SLOW)
        await asyncio.sleep(9 * DAY)
        assert await Frontier(bench.context(), [SLOW]).look() == pytest.approx(bench.clock.now() - 7 * DAY, abs=10.0)

    on_bench(main)


def test_the_ends_of_strangers_transactions_are_no_requests() -> None:
    """They lie behind the last record for ever: nobody waits for them to be read."""

    async def main(bench: Bench) -> None:
        transactor = await bench.context("stranger").log.transactor("stranger")
        await transactor.transact({SLOW: [Out(b"k", b"v")]})
        await commit(bench, SLOW, 1)
        own = {SLOW: Reached(1, bench.clock.now())}
        await asyncio.sleep(500)
        for reached in ({}, own):
            found = await Frontier(bench.context(), [SLOW], lambda reached=reached: reached).look()  # type: ignore[misc]
            assert bench.clock.now() - found <= READ_SECONDS + 1.0

    on_bench(main)


def test_ingest_looks_before_it_reads_and_ever_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all partitions of all lanes, those of other instances too."""
    heard: list[float] = []
    monkeypatch.setattr(Credits, "note_frontier", lambda _, at: heard.append(at))

    async def main(bench: Bench) -> None:
        await put(bench, SLOW)
        at = bench.clock.now()
        await asyncio.sleep(300)
        ctx = bench.context("ingest")
        running = asyncio.create_task(app.run(ctx))
        await asyncio.sleep(2.5 * LOOK_SECONDS)
        assert heard == [pytest.approx(at, abs=1.0)] * 3
        ctx.stop.set()
        await running

    on_bench(main, settings=load(kafka={"partitions": PARTITIONS}, instance={"i": 0, "n": 2}))


async def test_a_copy_on_a_partition_that_was_down_is_dead() -> None:
    """Its instance was away for a day while the other one went on; and after an outage of all of ingest."""
    clock = HandClock()
    ctx: Context = context(clock, configured(), service="ingest")
    row = tenant("acme", mac="required")

    def life() -> IngestHandler:
        credits = Credits(ctx)
        credits.note_frontier(NOW)
        return IngestHandler(ctx, Tenants({"acme": row}.get, lambda *_: (SECRET,)), credits, PARTITIONS)

    def signed(at: float) -> bytes:
        bare = Request(
            request_id="r", tenant="acme", kind="echo", payload=b"\xa1x", submitted_at=at, nonce=secrets.token_bytes(16)
        )
        return encode(msgspec.structs.replace(bare, mac=mac(SECRET, signed_bytes(bare, "standard"))))

    async def code(handler: IngestHandler, value: bytes, partition: int, offset: int, at: float) -> str:
        copy = record(value, "requests", partition, offset, at=at)
        (settled,) = await handler.settle(copy.place, [copy], Origins())
        return DEAD.decode(settled.out.value).error.code if isinstance(settled, DeadLettered) else "admitted"

    value, busy = signed(NOW), life()
    assert await code(busy, value, 0, 0, NOW + 1) == "admitted"
    for hour in range(1, 25):
        clock.at = NOW + 3600.0 * hour
        assert await code(busy, signed(clock.at), 0, hour, clock.at) == "admitted"
    assert await code(life(), value, 1, 0, NOW + 5) == "replayed"
    clock.at += 3 * DAY
    assert await code(life(), signed(clock.at), 0, 30, clock.at) == "admitted"
    assert await code(life(), value, 1, 1, NOW + 6) == "replayed"
