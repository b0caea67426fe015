"""A second look at one record by its offset."""

from __future__ import annotations

from llmos.infra.log.port import Out, Place
from llmos.infra.stages.rereading import REREAD_SECONDS, read_again
from tests.kit.bench import Bench, on_bench, record

PLACE = Place("sealed", 0)


def test_the_record_at_the_offset_is_read() -> None:
    """That one and no other, as it lies there."""

    async def main(bench: Bench) -> None:
        log = bench.broker.connect("writer")
        await log.emit(PLACE, [Out(b"k", f"v{i}".encode()) for i in range(5)])
        found = await read_again(log, record(b"damaged", PLACE.topic, PLACE.partition, 3))
        assert found is not None
        assert (found.offset, found.value, found.key) == (3, b"v3", b"k")

    on_bench(main)


def test_what_is_not_there_is_waited_for_a_bounded_time() -> None:
    """Beyond the end of the log, whether it says so or nothing comes."""

    async def main(bench: Bench) -> None:
        log = bench.broker.connect("writer")
        began = bench.clock.now()
        assert await read_again(log, record(b"damaged", PLACE.topic, PLACE.partition, 3)) is None
        assert bench.clock.now() - began <= REREAD_SECONDS + 1

    on_bench(main)
