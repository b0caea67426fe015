"""Whose turn it is while one decision is made: the lines of waiting tasks merged in order, with shares and ageing."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from llmos.pipelines.scheduling.ageing import overdue_at, overdue_is_next
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.shares import Shares, charged, settled
from llmos.pipelines.scheduling.snapshot import Carried, Rules, Waiting


class Line:
    """The waiting tasks of one group, and how far this decision has come in them."""

    __slots__ = ("closed", "end", "gone", "head", "index", "place", "tenant", "waiting")

    def __init__(self, waiting: Waiting, place: int) -> None:
        self.waiting = waiting
        self.place = place
        self.tenant = waiting.group.tenant
        self.index = 0
        self.end = len(waiting.tasks)
        self.gone: set[int] = set()
        """Places behind `index` that were chosen out of order."""
        self.closed = False
        self.head = waiting.tasks[0]

    @property
    def left(self) -> int:
        """Tasks that still wait."""
        return max(self.waiting.total, len(self.waiting.tasks)) - self.index - len(self.gone)

    def place_of(self, offset: int, sight: int) -> int:
        """The place of the task that `offset` others go before, or the nearest to it among the first `sight`."""
        place = self.index + offset
        for gone in sorted(self.gone):
            place += gone <= place
        place = min(place, self.end - 1, sight - 1)
        while place in self.gone:
            place -= 1
        return place

    def leave(self, place: int) -> None:
        """The task at `place` was chosen."""
        if place != self.index:
            self.gone.add(place)
            return
        self.index += 1
        while self.index in self.gone:
            self.gone.discard(self.index)
            self.index += 1
        if self.index < self.end:
            self.head = self.waiting.tasks[self.index]
        else:
            self.closed = True


class Queue:
    """The lines, the next task first."""

    def __init__(self, waiting: Sequence[Waiting], carried: Carried, rules: Rules, now: float) -> None:
        self._now = now
        self._ageing = rules.ageing_seconds
        self._weights = rules.weights
        self._shares = carried.shares
        self._since = carried.since_aged
        self.lines = [Line(entry, place) for place, entry in enumerate(waiting) if entry.tasks]
        self._counters = {line.tenant: self._shares.of(line.tenant) for line in self.lines}
        self._largest: dict[str, float] = {}
        """The largest charge of each tenant that was given something."""
        self._one_tenant = len(self._counters) < 2
        self._heap = [self._entry(line) for line in self.lines]
        heapq.heapify(self._heap)
        self._aged = [self._aged_entry(line) for line in self.lines if self._overdue(line.head)]
        heapq.heapify(self._aged)
        self._by_place = {line.place: line for line in self.lines}

    def next(self) -> tuple[Line, bool] | None:
        """The line whose head is next, and whether that is so because it is overdue; None: all lines are closed."""
        if self._aged and overdue_is_next(self._since):
            line = self._overdue_line()
            if line is not None:
                return line, True
        heap = self._heap
        while heap:
            entry = heap[0]
            line = self._by_place[entry[-1]]
            if line.closed:
                heapq.heappop(heap)
            elif entry[3] is line.head and (self._one_tenant or entry[2] == self._counters[line.tenant]):
                return line, False
            else:
                heapq.heapreplace(heap, self._entry(line))
        return None

    def chose(self, line: Line, place: int, work_seconds: float, aged: bool) -> None:
        """The task at `place` of the line was chosen."""
        tenant = line.tenant
        before = self._counters[tenant]
        after = self._counters[tenant] = charged(before, work_seconds, self._weights.get(tenant, 1.0))
        self._largest[tenant] = max(self._largest.get(tenant, 0.0), after - before)
        self._since = 0 if aged else self._since + 1
        line.leave(place)

    def pass_over(self, line: Line) -> None:
        """The overdue head cannot go: the line keeps its place in the order."""
        self._aged = [entry for entry in self._aged if entry[-1] != line.place]
        heapq.heapify(self._aged)

    def carried(self, before: Carried, unserved: set[str]) -> Carried:
        """What the next decision goes on with; `unserved`: tenants for whose tasks there was no room."""
        return before._replace(since_aged=self._since, shares=self._settled(unserved))

    def _settled(self, unserved: set[str]) -> Shares:
        if not unserved and not self._shares.ahead:
            return self._shares
        return settled(self._shares, self._counters, unserved, self._largest)

    def _entry(self, line: Line) -> tuple[Any, ...]:
        head = line.head
        return head[0], head[1], 0.0 if self._one_tenant else self._counters[line.tenant], head, line.place

    def _aged_entry(self, line: Line) -> tuple[Any, ...]:
        return self._counters[line.tenant], line.head.arrival, line.head, line.place

    def _overdue(self, head: Key) -> bool:
        return overdue_at(head, self._ageing) <= self._now

    def _overdue_line(self) -> Line | None:
        heap = self._aged
        while heap:
            entry = heap[0]
            line = self._by_place[entry[-1]]
            if line.closed or not self._overdue(line.head):
                heapq.heappop(heap)
            elif entry[2] is line.head and entry[0] == self._counters[line.tenant]:
                return line
            else:
                heapq.heapreplace(heap, self._aged_entry(line))
        return None
