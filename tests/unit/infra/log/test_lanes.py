"""One awaited batch at a time per place, and nothing after the first failure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmos.infra.log.lanes import Lanes
from llmos.infra.log.port import Out, Place
from llmos.infra.simulation import run
from llmos.schemas.errors import Ambiguous
from tests.kit.log_bench import A0, A1, outs


class Wire:
    """Takes batches of at most `limit` records, one at a time per place, each a second on its way."""

    def __init__(self, limit: int = 1000, *, busy: bool = False) -> None:
        """`busy`: somebody else writes a record behind every batch."""
        self.limit = limit
        self.busy = busy
        self.written: dict[Place, list[str]] = {A0: [], A1: []}
        self.batches: list[int] = []
        self.failing = False
        self._on_the_way: set[Place] = set()

    async def send(self, place: Place, records: Sequence[Out], start: int) -> tuple[int, int]:
        """One batch."""
        assert place not in self._on_the_way, "a second batch was sent before the first was acknowledged"
        self._on_the_way.add(place)
        end = min(start + self.limit, len(records))
        base = len(self.written[place])
        await asyncio.sleep(1.0)
        if self.failing:
            raise OSError("the wire is cut")
        self.written[place] += [(out.value or b"").decode() for out in records[start:end]]
        if self.busy:
            self.written[place].append("foreign")
        self.batches.append(end - start)
        self._on_the_way.discard(place)
        return base, end


def test_calls_that_wait_go_out_together() -> None:
    """Ten calls take two batches: the first alone, the other nine while it was on its way."""

    async def main() -> None:
        wire = Wire()
        lanes = Lanes(wire.send, 5.0)
        first = asyncio.create_task(lanes.emit(A0, outs("0")))
        await asyncio.sleep(0.5)
        rest = [asyncio.create_task(lanes.emit(A0, outs(str(i), f"{i}b"))) for i in range(1, 10)]
        offsets = [await task for task in [first, *rest]]
        assert offsets == [0, *range(1, 19, 2)]
        assert wire.batches == [1, 18]
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)

    run(main)


def test_places_go_side_by_side() -> None:
    """A batch to one place does not wait for another's."""

    async def main() -> None:
        wire = Wire()
        lanes = Lanes(wire.send, 5.0)
        await asyncio.gather(lanes.emit(A0, outs("x")), lanes.emit(A1, outs("y")))
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)

    run(main)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_calls_split_over_batches_are_told_their_first_offset(limit: int) -> None:
    """However batches cut through calls, each caller hears where its first record is, once its last is there."""

    async def main() -> None:
        wire = Wire(limit, busy=True)
        lanes = Lanes(wire.send, 5.0)
        sizes = [3, 1, 5, 2, 4]
        calls = [outs(*(f"{i}:{k}" for k in range(size))) for i, size in enumerate(sizes)]

        async def call(i: int) -> None:
            first = await lanes.emit(A0, calls[i])
            assert wire.written[A0][first] == f"{i}:0"
            assert f"{i}:{sizes[i] - 1}" in wire.written[A0]

        async with asyncio.TaskGroup() as group:
            for i in range(len(sizes)):
                group.create_task(call(i))
        own = [value for value in wire.written[A0] if value != "foreign"]
        assert own == [f"{i}:{k}" for i, size in enumerate(sizes) for k in range(size)]
        assert max(wire.batches) <= limit

    run(main)


def test_after_a_failure_nothing_is_sent() -> None:
    """The failed call, those behind it and all later ones are ambiguous; what another place has on its way arrives."""

    async def main() -> None:
        wire = Wire()
        lanes = Lanes(wire.send, 5.0)
        other = asyncio.create_task(lanes.emit(A1, outs("y")))
        await asyncio.sleep(0.5)
        wire_fails = [asyncio.create_task(lanes.emit(A0, outs(str(i)))) for i in range(2)]
        await asyncio.sleep(0)
        behind = asyncio.create_task(lanes.emit(A0, outs("behind")))
        assert await other == 0
        wire.failing = True
        for task in [*wire_fails, behind]:
            with pytest.raises(Ambiguous, match="the wire is cut"):
                await task
        wire.failing = False
        with pytest.raises(Ambiguous, match="the wire is cut"):
            await lanes.emit(A1, outs("later"))
        assert wire.written == {A0: [], A1: ["y"]}

    run(main)


def test_no_acknowledgement_is_ambiguous() -> None:
    """After the time allowed, not earlier."""

    async def main() -> None:
        lanes = Lanes(Wire().send, 0.7)
        with pytest.raises(Ambiguous, match=r"0\.7 s"):
            await lanes.emit(A0, outs("0"))
        assert asyncio.get_running_loop().time() == pytest.approx(0.7)

    run(main)


def test_a_cancelled_caller_leaves_no_gap() -> None:
    """On its way or still waiting, its records are sent, in their place."""

    async def main() -> None:
        wire = Wire()
        lanes = Lanes(wire.send, 5.0)
        tasks = []
        for i in range(3):
            tasks.append(asyncio.create_task(lanes.emit(A0, outs(str(i)))))
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        assert await lanes.emit(A0, outs("3")) == 3
        assert wire.written[A0] == ["0", "1", "2", "3"]

    run(main)


def test_closing_waits_for_what_is_on_its_way() -> None:
    """What was handed over before arrives, within the time given; nothing more is taken."""

    async def main() -> None:
        wire = Wire()
        lanes = Lanes(wire.send, 5.0)
        call = asyncio.create_task(lanes.emit(A0, outs("0")))
        await asyncio.sleep(0.1)
        await lanes.close(5.0)
        assert await call == 0
        with pytest.raises(Ambiguous, match="closed"):
            await lanes.emit(A0, outs("1"))

        stuck = Lanes(Wire().send, 100.0)
        late = asyncio.create_task(stuck.emit(A0, outs("0")))
        await asyncio.sleep(0.1)
        await stuck.close(0.2)
        with pytest.raises(Ambiguous):
            await late

    run(main)
