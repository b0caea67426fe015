"""Virtual time: nothing waits, everything repeats, and a deadlock is an error."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmos.infra.simulation import Deadlock, VirtualClock, run


def test_time_jumps_to_the_next_timer() -> None:
    """A year of sleeping; the loop's time and the clock show it, to the microsecond."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        clock = VirtualClock(loop)
        assert (loop.time(), clock.now()) == (0.0, 1_700_000_000.0)
        await asyncio.sleep(365 * 86_400.0)
        return loop.time(), clock.now()

    time, now = run(main)
    assert time == pytest.approx(365 * 86_400.0, abs=1e-6)
    assert now == pytest.approx(1_700_000_000.0 + 365 * 86_400.0)


def test_timers_fire_in_order() -> None:
    """By their time, however they were set."""

    async def main() -> list[float]:
        fired: list[float] = []

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(seconds)
            assert asyncio.get_running_loop().time() == pytest.approx(seconds)
            fired.append(seconds)

        await asyncio.gather(*(sleep(seconds) for seconds in (5.0, 0.001, 3.0, 0.002, 86_401.0)))
        return fired

    assert run(main) == [0.001, 0.002, 3.0, 5.0, 86_401.0]


def test_timeouts_are_virtual() -> None:
    """`asyncio.timeout` ends what waits for ever, at once by the wall."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(1000.0)


def test_a_deadlock_names_the_tasks() -> None:
    """Everybody waits for somebody: the error says who, and where."""

    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_ever(), name="the one that waits")

    with pytest.raises(Deadlock, match=r"(?s)the one that waits.*test_loop\.py:\d+ in .*waits_for_ever"):
        run(main)


def _schedule(seed: int | None) -> list[int]:
    async def main() -> list[int]:
        order: list[int] = []

        async def step(name: int) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                order.append(name)

        await asyncio.gather(*(step(name) for name in range(5)))
        return order

    return run(main, seed)


def test_a_seed_chooses_the_schedule() -> None:
    """Without one: first come, first served. With one: its own order, the same every time; others have others."""
    assert _schedule(None) == list(range(5)) * 3
    schedules = [_schedule(seed) for seed in range(20)]
    assert [_schedule(seed) for seed in range(20)] == schedules
    assert len({tuple(schedule) for schedule in schedules}) == 20
    assert all(sorted(schedule) == sorted(list(range(5)) * 3) for schedule in schedules)


def test_an_executors_work_is_done_at_once() -> None:
    """In the loop's own thread, with its result or its error; no time passes."""

    async def main() -> None:
        assert await asyncio.to_thread(threading.current_thread) is threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        assert asyncio.get_running_loop().time() == 0.0

    run(main)


def test_errors_and_results_come_out() -> None:
    """`run` is a call like any other, and cleans up what is left running."""
    cleaned: list[str] = []

    async def lingers() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            cleaned.append("cleaned")

    async def main() -> str:
        task = asyncio.create_task(lingers())
        await asyncio.sleep(1.0)
        assert not task.done()
        return "result"

    async def fails() -> None:
        raise LookupError("it failed")

    assert run(main) == "result"
    assert cleaned == ["cleaned"]
    with pytest.raises(LookupError, match="it failed"):
        run(fails)
