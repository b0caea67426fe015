"""`llmos up`: being told to stop while it starts."""

from __future__ import annotations

import asyncio

import pytest

from llmos.cli.up import unless


async def test_work_that_ends_first_is_not_disturbed() -> None:
    """Without a stop the work runs to its end, and its error comes out as it is."""
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    async def fail() -> None:
        raise LookupError("inside")

    await unless(asyncio.Event(), work())
    assert done == ["work"]
    with pytest.raises(LookupError):
        await unless(asyncio.Event(), fail())


async def test_a_stop_cancels_the_work_and_waits_for_its_end() -> None:
    """The work is cancelled, and what it does on its way out is awaited."""
    stop, ends = asyncio.Event(), []

    async def work() -> None:
        stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ends.append("ended")

    async with asyncio.timeout(30):
        await unless(stop, work())
    assert ends == ["ended"]


async def test_being_cancelled_cancels_the_work() -> None:
    """Whoever cancels the waiting cancels the work with it."""
    began, ends = asyncio.Event(), []

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("ended")

    waiting = asyncio.create_task(unless(asyncio.Event(), work()))
    await began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ends == ["ended"]
