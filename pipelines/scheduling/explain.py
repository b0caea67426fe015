"""Why a task waits: its place in the order, the rule that holds it with need and have, and when it should begin. Pure.

Tasks that are held for want of capacity stand in one queue, those held for another reason in one of their own kind and model.
A place is counted by levels, and among equals by taking turns over tenants. What is before a task takes, for each task, the
time in which all devices that may run it serve one: predicted start = first free place + Σ work before / service rate.
All sums are made once; a task then costs a few bisections.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from llmos.pipelines.scheduling.alike import Alike
from llmos.pipelines.scheduling.costs import Cost, Service, service_of
from llmos.pipelines.scheduling.decision import Decision, Held
from llmos.pipelines.scheduling.filters import CAPACITY
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.seats import Seat
from llmos.pipelines.scheduling.snapshot import Group, Snapshot, Waiting

_Name = tuple[str, str, bool, str]


class Explanation(NamedTuple):
    """What is told of one waiting task."""

    position: int
    """How many tasks go before it, plus one; 0: unknown."""
    rule: str
    need: float
    have: float
    predicted_start_at: float
    """Unix seconds; 0: unknown."""
    device: str = ""
    """Where it should begin; empty: unknown."""
    predicted_done_at: float = 0.0
    """Unix seconds; 0: unknown."""
    confidence: float = 0.0
    """Of the costs behind the prediction, 0 … 1: of the task, or of the work before it where that is less sure."""


class _Pace(NamedTuple):
    """How fast the devices serve tasks that are alike."""

    device: str
    cost: Cost
    slots: int
    free_seconds: float
    """Until the first place is free."""
    seconds_each: float
    """In which all devices together serve one."""


class _Level:
    """The tasks of one level of a queue."""

    __slots__ = ("before", "by_tenant", "confidence", "lengths", "prefix", "seconds_before", "seconds_each", "tasks")

    def __init__(self) -> None:
        self.by_tenant: dict[str, list[Waiting]] = {}
        self.lengths: list[int] = []
        """Of the tenants, in order."""
        self.prefix: list[int] = [0]
        self.tasks = 0
        self.seconds_each = 0.0
        self.before = 0
        self.seconds_before = 0.0
        self.confidence = 0.0
        """Of what this level and those before it should take, by seconds."""

    def close(self, seconds: float) -> None:
        """All lists are in it, with so many seconds of work."""
        self.lengths = sorted(sum(map(_length, lists)) for lists in self.by_tenant.values())
        for length in self.lengths:
            self.prefix.append(self.prefix[-1] + length)
        self.tasks = self.prefix[-1]
        self.seconds_each = seconds / self.tasks if self.tasks else 0.0

    def ahead_of(self, tenant: str, key: Key) -> int:
        """Tasks of this level that go before `key`: its tenant's, and as many of each other tenant's."""
        own = self.by_tenant.get(tenant, [])
        index = sum(bisect_left(waiting.tasks, key) for waiting in own)
        short = bisect_left(self.lengths, index + 1)
        others = self.prefix[short] + (len(self.lengths) - short) * (index + 1)
        mine = min(sum(map(_length, own)), index + 1)
        return index + others - mine


def _length(waiting: Waiting) -> int:
    return max(waiting.total, len(waiting.tasks))


class Explanations:
    """What can be told of all tasks that a decision held."""

    def __init__(self, snapshot: Snapshot, held: Iterable[Held], now: float) -> None:
        self._now = now
        self._held: dict[_Name, Held] = {}
        for entry in held:
            self._held.setdefault(entry.group[:4], entry)
        self._seats = [Seat(view) for view in snapshot.devices]
        self._snapshot = snapshot
        self._paces: dict[_Name, _Pace | None] = {}
        self._queues: dict[_Name | None, dict[int, _Level]] = {}
        self._fill()

    def of(self, group: Group, key: Key) -> Explanation | None:
        """Of a waiting task; None where the decision did not see its group."""
        name = group[:4]
        held = self._held.get(name)
        if held is None:
            return None
        queue = self._queues.get(self._queue_of(held), {})
        level = queue.get(group.level)
        if level is None:
            return Explanation(0, *held.why, 0.0)
        ahead = level.ahead_of(group.tenant, key)
        position = level.before + ahead + 1
        pace = self._paces.get(name)
        if pace is None or held.why.rule not in CAPACITY:
            return Explanation(position, *held.why, 0.0)
        start = self._now + pace.free_seconds + level.seconds_before + ahead * level.seconds_each
        service = service_of(pace.cost, key.input_tokens, key.output_tokens, pace.slots, key.sequences)
        return Explanation(
            position,
            *held.why,
            predicted_start_at=start,
            device=held.device or pace.device,
            predicted_done_at=start + service.seconds,
            confidence=min(pace.cost.confidence, level.confidence) if position > 1 else pace.cost.confidence,
        )

    def _queue_of(self, held: Held) -> _Name | None:
        return None if held.why.rule in CAPACITY else held.group[:4]

    def _fill(self) -> None:
        seconds: dict[_Name | None, dict[int, float]] = {}
        known: dict[_Name | None, dict[int, float]] = {}
        for waiting in self._snapshot.waiting:
            held = self._held.get(waiting.group[:4])
            if held is None or not waiting.tasks:
                continue
            queue = self._queue_of(held)
            number = waiting.group.level
            level = self._queues.setdefault(queue, {}).setdefault(number, _Level())
            level.by_tenant.setdefault(waiting.group.tenant, []).append(waiting)
            pace = self._pace(waiting)
            sums = seconds.setdefault(queue, {})
            takes = pace.seconds_each * _length(waiting) if pace else 0.0
            sums[number] = sums.get(number, 0.0) + takes
            sure = known.setdefault(queue, {})
            sure[number] = sure.get(number, 0.0) + (takes * pace.cost.confidence if pace else 0.0)
        for queue, levels in self._queues.items():
            before, seconds_before, known_before = 0, 0.0, 0.0
            for number in sorted(levels):
                level = levels[number]
                level.close(seconds[queue][number])
                level.before, level.seconds_before = before, seconds_before
                before += level.tasks
                seconds_before += seconds[queue][number]
                known_before += known[queue][number]
                level.confidence = known_before / seconds_before if seconds_before > 0.0 else 0.0

    def _pace(self, waiting: Waiting) -> _Pace | None:
        name = waiting.group[:4]
        if name not in self._paces:
            self._paces[name] = _pace_of(Alike(waiting, self._seats, self._snapshot.rules), waiting.tasks[0])
        return self._paces[name]


def _pace_of(alike: Alike, key: Key) -> _Pace | None:
    """None where no device may run them."""
    if not alike.seats:
        return None
    busy = {seat.device: prediction for seat, prediction in alike.full(key)}
    rate = 0.0
    first: tuple[float, Seat, Cost] | None = None
    for seat, cost in alike.seats:
        work = _full_batch(seat, cost, key).work_seconds
        rate += 1.0 / work if work > 0.0 else 0.0
        prediction = busy.get(seat.device) or alike.predict(seat, cost, key)
        free = prediction.wait + prediction.load
        if first is None or free < first[0]:
            first = (free, seat, cost)
    assert first is not None, "there are seats"
    free, seat, cost = first
    return _Pace(seat.device, cost, max(seat.slots, 1), free, 1.0 / rate if rate > 0.0 else 0.0)


def _full_batch(seat: Seat, cost: Cost, key: Key) -> Service:
    return service_of(cost, key.input_tokens, key.output_tokens, max(seat.slots, 1), key.sequences)


def explain(snapshot: Snapshot, decision: Decision, now: float) -> Explanations:
    """What can be told of the tasks that `decision`, made of `snapshot`, holds.

    The lists of waiting tasks are read when something is asked, so those of a service may go on changing: where tasks
    have come or gone, places are counted as it is then.
    """
    chosen: dict[Group, set[Key]] = {}
    for entry in decision.chosen:
        chosen.setdefault(entry.group, set()).add(entry.task)
    waiting = [
        entry._replace(
            tasks=[key for key in entry.tasks if key not in chosen[entry.group]],
            total=_length(entry) - len(chosen[entry.group]),
        )
        if entry.group in chosen
        else entry
        for entry in snapshot.waiting
    ]
    return Explanations(snapshot._replace(waiting=waiting), decision.held, now)
