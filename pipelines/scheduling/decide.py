"""The scheduling decision: first which task (order, shares, ageing), then which device (filters, ranking). Pure.

When no device may take a group's next task, all that are alike are held for this turn, for none of them would go. The cost is
O(chosen × devices + groups), with a factor log(groups), and O(devices) for each kind and model that waits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llmos.pipelines.scheduling.ageing import overdue_at
from llmos.pipelines.scheduling.alike import Alike
from llmos.pipelines.scheduling.decision import Chosen, Decision, Held, Option, Prediction, Why
from llmos.pipelines.scheduling.filters import CAPACITY
from llmos.pipelines.scheduling.filters.sooner import sooner
from llmos.pipelines.scheduling.filters.switch import switch
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.queue import Line, Queue
from llmos.pipelines.scheduling.rankings import baseline
from llmos.pipelines.scheduling.rankings.completion import load_seconds
from llmos.pipelines.scheduling.seats import Seat
from llmos.pipelines.scheduling.snapshot import DeviceView, Snapshot, Waiting

BEHIND = 64
"""Where the first tasks of a line rather wait for a busy device, so many are looked over for the one that need not."""


class _Pick(NamedTuple):
    seat: Seat
    prediction: Prediction
    place: int
    """Of the task in its line."""


def room_of(device: DeviceView) -> int:
    """How many more tasks its windows take."""
    room = dict(device.window)
    for kind, count in device.in_flight.items():
        name = kind if kind in room else ""
        room[name] = room.get(name, 0) - count
    return sum(places for places in room.values() if places > 0)


def sight_of(snapshot: Snapshot) -> int:
    """How many tasks of each group a decision looks at: as many as there is room for, and some that may go out of order."""
    return sum(map(room_of, snapshot.devices)) + BEHIND


def decide(snapshot: Snapshot, now: float) -> Decision:
    """Chooses tasks and devices until nothing more may go."""
    return _Round(snapshot, now).play()


class _Round:
    """One decision."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self._now = now
        self._rules = snapshot.rules
        self._carried = snapshot.carried
        self._snapshot = snapshot
        self._seats = [Seat(view) for view in snapshot.devices]
        self._names = [view.device for view in snapshot.devices]
        self._queue = Queue(snapshot.waiting, snapshot.carried, snapshot.rules, now)
        self._alike: dict[tuple[str, str, bool, str], Alike] = {}
        self._wanted = _wanted(snapshot)
        self._next_at: float | None = None
        self._chosen: list[Chosen] = []
        self._held: list[Held] = []
        self._unserved: set[str] = set()
        self._held_back: list[tuple[Alike, Line]] = []

    def play(self) -> Decision:
        """Until all lines are closed."""
        while (found := self._queue.next()) is not None:
            line, aged = found
            alike = self._alike_of(line.waiting)
            overdue = aged or overdue_at(line.head, self._rules.ageing_seconds) <= self._now
            if alike.why is not None and not (overdue and alike.why.rule == "sooner"):
                pick: _Pick | Why = alike.why
            else:
                pick = self._pick(alike, line, overdue)
            if isinstance(pick, _Pick):
                self._take(alike, line, pick, aged)
                continue
            if line.waiting.group.alone and pick.rule in ("alone", "window"):
                alike.keep_one_free()
            if aged:
                self._queue.pass_over(line)
            else:
                self._hold(alike, line, pick)
        carried = self._queue.carried(self._carried, self._unserved)
        return Decision(self._chosen, self._held, self._next_at, carried)

    def _alike_of(self, waiting: Waiting) -> Alike:
        group = waiting.group
        name = group[:4]
        found = self._alike.get(name)
        if found is None:
            found = self._alike[name] = Alike(waiting, self._seats, self._rules, self._may_load)
        return found

    def _pick(self, alike: Alike, line: Line, overdue: bool) -> _Pick | Why:
        """The device for a task of the line, or why there is none."""
        if self._rules.policy != "completion":
            return self._pick_by_baseline(alike, line)
        found = alike.best(line.head)
        if found is None:
            return alike.switching or alike.nearest()
        best, prediction = found
        rather = self._rather_wait(alike, line, prediction) if alike.any_full and not overdue else 0
        if rather >= line.left:
            return self._wait_for_busy(alike, line, prediction)
        if rather == 0:
            return _Pick(best, prediction, line.index)
        return self._send_later_one(alike, line, best, rather)

    def _pick_by_baseline(self, alike: Alike, line: Line) -> _Pick | Why:
        may = [(seat, cost) for seat, cost in alike.seats if alike.passing(seat) is None]
        if not may:
            return alike.nearest()
        calm = [(seat, cost) for seat, cost in may if seat.utilisation <= self._rules.utilisation_limit] or may
        place, self._carried = baseline(self._rules.policy, [seat for seat, _ in calm], self._names, self._carried)
        seat, cost = calm[place]
        return _Pick(seat, alike.predict(seat, cost, line.head), line.index)

    def _may_load(self, alike: Alike, seat: Seat, key: Key) -> Why | None:
        waiting = alike.waiting
        if not seat.resident:
            return None
        patience = self._rules.switch_loads * load_seconds(seat, waiting.group.model, waiting.weight_bytes)
        why = switch(seat, waiting, key, self._wanted, patience, self._now)
        if why is not None:
            at = key.arrival + patience
            self._next_at = at if self._next_at is None else min(self._next_at, at)
        return why

    def _rather_wait(self, alike: Alike, line: Line, best: Prediction) -> int:
        """How many tasks of the line are sooner done by waiting for a busy device."""
        if math.isinf(self._rules.sooner_margin):
            return 0
        self._count_held_back()
        busy = [(seat.held_seconds, prediction) for seat, prediction in alike.full(line.head)]
        return sooner(best.seconds, busy, self._rules.sooner_margin)

    def _wait_for_busy(self, alike: Alike, line: Line, best: Prediction) -> Why:
        seat, prediction = min(alike.full(line.head), key=lambda entry: entry[0].held_seconds + entry[1].seconds)
        alike.device = seat.device
        return Why("sooner", best.seconds, seat.held_seconds + prediction.seconds)

    def _send_later_one(self, alike: Alike, line: Line, seat: Seat, rather: int) -> _Pick:
        """The first tasks of the line wait for the busy devices; the one behind them goes where it is done sooner."""
        place = line.place_of(rather, sight_of(self._snapshot))
        cost = next(cost for other, cost in alike.seats if other is seat)
        return _Pick(seat, alike.predict(seat, cost, line.waiting.tasks[place]), place)

    def _take(self, alike: Alike, line: Line, pick: _Pick, aged: bool) -> None:
        group = line.waiting.group
        seat, prediction, place = pick
        task = line.waiting.tasks[place]
        options: tuple[Option, ...] = ()
        if self._rules.record and group.model:
            options = alike.options(task)
        start = self._now + prediction.wait + prediction.load
        self._chosen.append(
            Chosen(
                task, group, seat.device, start + prediction.service, prediction.work, start, prediction.load, options
            )
        )
        need = max(line.waiting.need_bytes, line.waiting.weight_bytes)
        seat.take(group.kind, group.model, group.alone, prediction, need)
        self._queue.chose(line, place, prediction.work, aged)

    def _hold(self, alike: Alike, line: Line, why: Why) -> None:
        line.closed = True
        group = line.waiting.group
        options: tuple[Option, ...] = ()
        if alike.why is None:
            alike.why = why
            if self._rules.record and group.model:
                options = alike.options(line.head)
        self._held.append(Held(group, line.head, line.left, why, options, alike.device))
        if why.rule in CAPACITY:
            self._unserved.add(group.tenant)
            self._held_back.append((alike, line))

    def _count_held_back(self) -> None:
        """Adds the work of tasks that were held so far to the devices they wait for; late, since few decisions ask."""
        for alike, line in self._held_back:
            if not alike.busy:
                alike.busy = alike.full(line.head)
            for seat, prediction in alike.busy:
                seat.held_seconds += prediction.work * line.left / len(alike.busy)
        self._held_back.clear()


def _wanted(snapshot: Snapshot) -> dict[str, int]:
    """By model, the most urgent level of the tasks that wait for it."""
    wanted: dict[str, int] = {}
    for waiting in snapshot.waiting:
        model = waiting.group.model
        if model and waiting.tasks:
            level = waiting.tasks[0].level
            wanted[model] = min(wanted.get(model, level), level)
    return wanted
