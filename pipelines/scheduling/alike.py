"""Tasks that devices treat alike, within one decision: which devices may take them, at what cost, and why the others not."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.decision import Option, Prediction, Why
from llmos.pipelines.scheduling.filters import LASTING, NEAREST, PASSING
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.rankings.completion import burden_seconds, predict
from llmos.pipelines.scheduling.seats import Seat
from llmos.pipelines.scheduling.snapshot import Rules, Waiting

_NEARNESS = {rule: place for place, rule in enumerate(NEAREST)}


_Ranked = tuple[bool, float, int, int, int, Prediction]
"""Whether ρ is above the limit, seconds until done, tasks in flight, place in `seats`, version of the seat, prediction."""


def nearer(one: Why, other: Why) -> Why:
    """The refusal of the device that was nearer to taking the task; of equals the first."""
    return other if _NEARNESS[other.rule] > _NEARNESS[one.rule] else one


FRESH_LOAD = 1.1
"""A device that must load the model first must be sooner by this factor than one that has it, or has it on the way: a load
costs others time and memory, and tasks of one model run better together."""

MayLoad = Callable[["Alike", Seat, Key], Why | None]
"""Why a device may not load the model of these tasks just now."""


class Alike:
    """What `decide` keeps of tasks of one kind and model while it decides."""

    __slots__ = (
        "_heap", "_may_load", "_size", "any_full", "busy", "device", "refused", "rules", "seats", "switching", "waiting",
        "why",
    )  # fmt: skip

    def __init__(self, waiting: Waiting, seats: Iterable[Seat], rules: Rules, may_load: MayLoad | None = None) -> None:
        self.waiting = waiting
        self.rules = rules
        self.why: Why | None = None
        """Why no more of them may go now."""
        self.busy: list[tuple[Seat, Prediction]] = []
        """Devices that were full when the first of them was held."""
        self.device = ""
        """The one they wait for."""
        self.any_full = False
        """A window was full when devices were last ranked."""
        self.switching: Why | None = None
        """Why a device may not load their model just now."""
        self.seats: list[tuple[Seat, Cost]] = []
        """Those that may, for all that lasts."""
        self.refused: list[tuple[str, Why]] = []
        self._may_load = may_load
        self._heap: list[_Ranked] | None = None
        self._size: tuple[int, int, int] | None = None
        group = waiting.group
        work = (group.model, group.kind)
        default = Cost(rules.default_service_seconds)
        for seat in seats:
            view = seat.view
            for criterion in LASTING:
                why = criterion(view, waiting, rules)
                if why is not None:
                    self.refused.append((seat.device, why))
                    break
            else:
                self.seats.append((seat, view.costs.get(work, default)))

    def passing(self, seat: Seat) -> Why | None:
        """Why the device may not take one more just now."""
        if seat.kept_free and not self.waiting.group.alone:
            return Why("alone", 0, seat.total_in_flight)
        for criterion in PASSING:
            why = criterion(seat, self.waiting, self.rules)
            if why is not None:
                return why
        return None

    def best(self, key: Key) -> tuple[Seat, Prediction] | None:
        """The device that should be done with the task first, by what is predicted, with what it costs those beside it;
        None: none may take it.

        Between tasks of one size only the devices that were given something since are looked at again: what they are
        given makes them later, never sooner.
        """
        size = (key.input_tokens, key.output_tokens, key.sequences)
        heap = self._heap
        if heap is None or self._size != size:
            heap = self._rank(key)
            self._size = size
        while heap:
            top = heap[0]
            index = top[3]
            seat = self.seats[index][0]
            if top[4] == seat.version:
                return seat, top[5]
            entry = self._ranked(index, key)
            if entry is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, entry)
        return None

    def _rank(self, key: Key) -> list[_Ranked]:
        self.any_full, self.switching = False, None
        ranked = (self._ranked(index, key) for index in range(len(self.seats)))
        heap = [entry for entry in ranked if entry is not None]
        heapq.heapify(heap)
        model = self.waiting.group.model
        # Where a load may be due, who may load depends on the task, and a device that loads becomes the better one.
        lasts = not model or all(model in seat.resident for seat, _ in self.seats)
        self._heap = heap if lasts else None
        return heap

    def _ranked(self, index: int, key: Key) -> _Ranked | None:
        seat, cost = self.seats[index]
        why = self.passing(seat)
        if why is not None:
            self.any_full = self.any_full or why.rule == "window"
            return None
        model = self.waiting.group.model
        fresh = bool(model) and model not in seat.resident
        if fresh and self._may_load is not None and (why := self._may_load(self, seat, key)) is not None:
            self.switching = why
            return None
        prediction = self.predict(seat, cost, key)
        burden = burden_seconds(seat, self.waiting.group.kind, key, cost)
        seconds = prediction.wait + prediction.load + prediction.service + burden
        # ρ binds only while another device may: somebody has to do the work.
        above = seat.utilisation > self.rules.utilisation_limit
        flying = seat.total_in_flight
        return above, seconds * FRESH_LOAD if fresh else seconds, flying, index, seat.version, prediction

    def predict(self, seat: Seat, cost: Cost, key: Key) -> Prediction:
        """What the device would make of the task."""
        group = self.waiting.group
        return predict(seat, group.kind, group.model, self.waiting.weight_bytes, key, cost)

    def full(self, key: Key) -> list[tuple[Seat, Prediction]]:
        """Devices that may take them but whose windows are full, and what they would make of one more.

        A place must become free first: that is when the first of those in flight is done, at the earliest.
        """
        found = []
        for seat, cost in self.seats:
            why = self.passing(seat)
            if why is not None and why.rule == "window":
                prediction = self.predict(seat, cost, key)
                kind = self.waiting.group.kind
                count = max(seat.in_flight.get(kind, 0), 1)
                first = seat.work_seconds.get(kind, 0.0) / count
                found.append((seat, prediction if prediction.wait >= first else prediction._replace(wait=first)))
        return found

    def keep_one_free(self) -> None:
        """For tasks that must be alone and find no empty device: the one that is empty soonest gets nothing else in this
        decision. One that has such a task already comes first, so that they follow each other there and others go on."""
        busy = [seat for seat, _ in self.seats if seat.total_in_flight]
        if busy:
            min(busy, key=lambda seat: (not seat.in_flight_alone, seat.expected_seconds, seat.device)).keep_free()

    def nearest(self) -> Why:
        """The refusal of the device that came nearest, when no device may take one more."""
        why = Why("alive", 1, 0)
        for _, refusal in self.refused:
            why = nearer(why, refusal)
        for seat, _ in self.seats:
            refused = self.passing(seat)
            if refused is not None:
                why = nearer(why, refused)
        return why

    def options(self, key: Key) -> tuple[Option, ...]:
        """All devices as this decision sees them now, for the record."""
        found = [Option(device, why, None) for device, why in self.refused]
        for seat, cost in self.seats:
            found.append(Option(seat.device, self.passing(seat), self.predict(seat, cost, key)))
        return tuple(sorted(found, key=lambda option: option.device))
