"""N and every n ever used; which producers of other n must be fenced at start."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.infra.settings.tree import Instance
from llmos.schemas.base import encode
from llmos.schemas.epochs import EPOCHS, Layout, Term
from llmos.schemas.errors import LayoutMismatch
from llmos.services.aggregator.layout import overlapping_names, producer_names, record_layout
from tests.kit.bench import PARTITIONS, HandClock, configured, context
from tests.kit.log_bench import everything

PLACE = Place("epochs", 0)


def service(broker: MemoryBroker, i: int = 0, n: int = 1) -> Context:
    return context(broker.clock, configured(instance={"i": i, "n": n}), broker)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(HandClock())


async def layouts(ctx: Context) -> list[tuple[str, tuple[int, ...]]]:
    """Key and instances of every layout record, in order."""
    found = await everything(ctx.log, PLACE)
    return [((r.key or b"").decode(), tuple(EPOCHS.decode(r.value).instances)) for r in found]


async def test_every_n_is_written_down(broker: MemoryBroker) -> None:
    """Under a key of its own, so that compaction keeps each; a start knows all that were ever used."""
    for n, used in ((1, [1]), (1, [1]), (3, [1, 3]), (2, [1, 2, 3]), (1, [1, 2, 3])):
        layout = await record_layout(service(broker, n=n), PARTITIONS)
        assert layout == Layout(partitions=PARTITIONS, instances=used)
    assert set(await layouts(service(broker))) == {("layout:1", (1,)), ("layout:2", (2,)), ("layout:3", (3,))}


async def test_another_n_of_partitions_is_refused(broker: MemoryBroker) -> None:
    """A system made with N partitions does not start with another N, and it still starts with its own."""
    ctx = service(broker)
    await record_layout(ctx, PARTITIONS)
    with pytest.raises(LayoutMismatch, match=r"N = 2.*N = 4"):
        await record_layout(ctx, 4)
    assert (await record_layout(ctx, PARTITIONS)).instances == [1]


async def test_of_two_that_start_together_one_sees_the_other(broker: MemoryBroker) -> None:
    """Each writes before it reads: whoever wrote second knows of both."""
    found = await asyncio.gather(*(record_layout(service(broker, n=n), PARTITIONS) for n in (2, 3)))
    assert [2, 3] in [layout.instances for layout in found]


async def test_other_records_of_the_topic_are_no_layout(broker: MemoryBroker) -> None:
    """Terms, tombstones and deaths share the topic, and rubbish may lie there."""
    ctx = service(broker)
    term = Out(b"term", encode(Term(node="n", pid=1, at=0.0)))
    await ctx.log.emit(PLACE, [term, Out(b"deaths:0:0:0", None), Out(b"layout:9", b"\xc1"), Out(b"layout:8", None)])
    assert (await record_layout(ctx, PARTITIONS)).instances == [1]


@pytest.mark.parametrize(
    ("i", "n", "used", "names"),
    [
        (0, 1, [1], []),
        (0, 1, [], []),
        (0, 1, [1, 2], ["aggregator-2-0-a", "aggregator-2-0-b", "aggregator-2-1-a", "aggregator-2-1-b"]),
        (1, 2, [1, 2], ["aggregator-1-0-a", "aggregator-1-0-b"]),
        (1, 2, [2, 4], ["aggregator-4-1-a", "aggregator-4-1-b", "aggregator-4-3-a", "aggregator-4-3-b"]),
        (3, 4, [2, 4], ["aggregator-2-1-a", "aggregator-2-1-b"]),
        (7, 8, [8], []),
    ],
)
def test_overlapping_names(i: int, n: int, used: list[int], names: list[str]) -> None:
    """Of eight partitions: the two producers of each instance of another n that shares one with this instance."""
    assert overlapping_names(Instance(i=i, n=n), used, 8) == names


@given(st.integers(1, 12), st.integers(1, 6), st.data())
def test_overlapping_is_sharing_a_partition(partitions: int, n: int, data: st.DataObject) -> None:
    """Against brute force: an instance of another n is named exactly when it owned a partition of ours."""
    i = data.draw(st.integers(0, n - 1))
    used = data.draw(st.lists(st.integers(1, 6), unique=True))
    own = {p for p in range(partitions) if p % n == i}
    expected = {
        name
        for other in used
        if other != n
        for j in range(other)
        if own & {p for p in range(partitions) if p % other == j}
        for name in producer_names(Instance(i=j, n=other))
    }
    names = overlapping_names(Instance(i=i, n=n), used, partitions)
    assert set(names) == expected
    assert len(names) == len(expected)
    assert not set(producer_names(Instance(i=i, n=n))) & expected
