"""One awaited batch at a time per place: calls queue up behind each other, and those that wait go out together.

No gap may arise: nothing is sent to a place before what was sent there earlier is acknowledged, a caller that is
cancelled does not take its records back, and after the first failure nothing is sent at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from llmos.infra.log.port import Out, Place
from llmos.infra.log.sizes import excess
from llmos.schemas.errors import Ambiguous

Send = Callable[[Place, Sequence[Out], int], Awaitable[tuple[int, int]]]
"""Sends one batch of the records from an index on and awaits it: (offset of its first record, index after its last)."""


class _Call:
    """Records of one caller, who waits for `done`."""

    __slots__ = ("done", "first", "records")

    def __init__(self, records: Sequence[Out], done: asyncio.Future[int]) -> None:
        self.records = records
        self.done = done
        self.first = -1


class _Lane:
    """A place: calls that wait, calls that are being sent, and the task that sends them."""

    __slots__ = ("place", "sending", "task", "waiting")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.waiting: deque[_Call] = deque()
        self.sending: deque[_Call] = deque()
        self.task: asyncio.Task[None] | None = None


class Lanes:
    """All places that one connection writes to."""

    def __init__(self, send: Send, seconds: float) -> None:
        """`seconds`: a batch unacknowledged for this long is ambiguous."""
        self._send = send
        self._seconds = seconds
        self._lanes: dict[Place, _Lane] = {}
        self._problem: str | None = None

    async def emit(self, place: Place, records: Sequence[Out]) -> int:
        """Queues the records; returns the offset of the first when all are acknowledged.

        Raises:
            Ambiguous: it failed, or an earlier call did.
            ValueError: there are no records.
        """
        if not records:
            raise ValueError("nothing to emit")
        if self._problem is not None:
            raise self._ambiguous(place)
        if (problem := excess(records)) is not None:
            self.poison(problem)
            raise self._ambiguous(place)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane(place)
        call = _Call(records, asyncio.get_running_loop().create_future())
        lane.waiting.append(call)
        if lane.task is None:
            lane.task = asyncio.create_task(self._drive(lane), name=f"emit {place.topic}[{place.partition}]")
            lane.task.add_done_callback(partial(self._driven, lane))
        return await call.done

    def poison(self, problem: str) -> None:
        """From now on every call is ambiguous; those that wait are told."""
        if self._problem is None:
            self._problem = problem
        for lane in self._lanes.values():
            self._fail(lane, lane.waiting)

    async def close(self, seconds: float) -> None:
        """Takes nothing more, gives what is on its way `seconds` to arrive, then ends."""
        if self._problem is None:
            self._problem = "the connection was closed"
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=seconds)

    def cancel(self) -> None:
        """Ends what is on its way at once, without waiting."""
        self.poison("the connection was ended")
        for lane in self._lanes.values():
            if lane.task is not None:
                lane.task.cancel()

    async def _drive(self, lane: _Lane) -> None:
        while lane.waiting:
            lane.sending, lane.waiting = lane.waiting, deque()
            await self._send_all(lane)
        lane.task = None

    async def _send_all(self, lane: _Lane) -> None:
        """Sends the calls in `lane.sending` in order, as few batches as hold them, each awaited."""
        if len(lane.sending) == 1:
            records = lane.sending[0].records
        else:
            records = [record for call in lane.sending for record in call.records]
        sent = 0
        begin = 0  # index of the first record of the first call that is not finished
        while sent < len(records):
            async with asyncio.timeout(self._seconds):
                base, end = await self._send(lane.place, records, sent)
            while lane.sending:
                call = lane.sending[0]
                if begin >= end:
                    break
                if begin >= sent:
                    call.first = base + begin - sent
                if begin + len(call.records) > end:
                    break
                begin += len(call.records)
                lane.sending.popleft()
                if not call.done.done():
                    call.done.set_result(call.first)
            sent = end

    def _driven(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            problem = "it was cancelled"
        elif (error := task.exception()) is None:
            return
        elif isinstance(error, TimeoutError):
            problem = f"no acknowledgement within {self._seconds:.1f} s"
        else:
            problem = f"{type(error).__name__}: {error}"
        lane.task = None
        self.poison(problem)
        self._fail(lane, lane.sending)

    def _fail(self, lane: _Lane, calls: deque[_Call]) -> None:
        while calls:
            call = calls.popleft()
            if not call.done.done():
                call.done.set_exception(self._ambiguous(lane.place))

    def _ambiguous(self, place: Place) -> Ambiguous:
        return Ambiguous(operation=f"emitting to {place.topic}[{place.partition}]", problem=self._problem or "unknown")
