"""A turn of the scheduler: what is due by the time, the decision, what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.decision import Chosen, Decision, Held
from llmos.pipelines.scheduling.snapshot import Group
from llmos.schemas.catalog import Model
from llmos.schemas.errors import NeverFits
from llmos.schemas.ids import epoch_of
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.jobs import LiveTask
from llmos.services.scheduler.views import snapshot_of

SILENCE_LOOK_SECONDS = 0.5
"""How often devices are looked over for silence."""


STANDSTILL_SECONDS = 2.0
"""A turn that is later than this was held up: heartbeats wait unread behind it."""


class Turn:
    """Takes turns over the desk."""

    def __init__(self, desk: Desk, models: Mapping[str, Any]) -> None:
        self._desk = desk
        self._models = models
        self._round = 0
        self._looked_at = 0.0
        self._too_large_since: dict[Group, float] = {}
        self.held: list[Held] = []

    def take(self, now: float) -> float:
        """Decides everything that is due; gives the time of the next turn if nothing comes before."""
        desk = self._desk
        desk.expire(now)
        desk.jobs.ripe(now)
        if now - self._looked_at >= SILENCE_LOOK_SECONDS:
            if now - self._looked_at > STANDSTILL_SECONDS:
                desk.hear_first(now)
            self._looked_at = now
            desk.lose_silent(now)
        decision = self._decide(now)
        self._round = decision.turn
        for chosen in decision.chosen:
            self._dispatch(chosen, now)
        self._refuse_what_never_fits(decision, now)
        self.held = decision.held
        self._tell()
        times = [desk.jobs.next_time(), decision.next_at, now + SILENCE_LOOK_SECONDS]
        return min(time for time in times if time is not None)

    def _decide(self, now: float) -> Decision:
        if not self._desk.jobs.anybody_waits:
            # Most turns bring receipts and heartbeats only: looking at all devices for nobody is half their cost.
            return Decision([], [], None, self._round)
        return decide(snapshot_of(self._desk, self._models, self._round, now), now)

    def _dispatch(self, chosen: Chosen, now: float) -> None:
        desk = self._desk
        key = chosen.task
        task = desk.jobs.task((key.partition, key.s, key.part))
        device = desk.fleet.get(chosen.device)
        assert task is not None, "the snapshot holds live tasks"
        assert device is not None, "and known devices"
        desk.jobs.leave(task)
        task.attempts += 1
        task.epoch = epoch_of(desk.term, task.attempts)
        task.device, task.incarnation = device.name, device.incarnation
        task.dispatched_at = now
        task.expected_seconds, task.done_at = chosen.service_seconds, chosen.done_at
        task.become("dispatched")
        device.took(task, now)
        desk.effects.work(task, now)

    def _refuse_what_never_fits(self, decision: Decision, now: float) -> None:
        """Refuses what no device had room for during a whole while: larger ones may be starting anew."""
        held_by_memory = {held.group: held for held in decision.held if held.why.rule == "memory"}
        self._too_large_since = {group: self._too_large_since.get(group, now) for group in held_by_memory}
        for group, held in held_by_memory.items():
            need, have = int(held.why.need), self._desk.fleet.largest_budget
            if need <= have or now - self._too_large_since[group] < self._desk.settings.never_fits_seconds:
                continue
            model = self._models.get(group.model)
            name = model.name if isinstance(model, Model) else group.model
            for task in self._tasks_of(held):
                if not task.job.verdict:
                    self._desk.end(task.job, "refused", NeverFits(model=name, need=need, have=have))

    def _tasks_of(self, held: Held) -> list[LiveTask]:
        for group, keys in self._desk.jobs.waiting():
            if group == held.group:
                found = [self._desk.jobs.task((key.partition, key.s, key.part)) for key in list(keys)]
                return [task for task in found if task is not None]
        return []

    def _tell(self) -> None:
        """Says to the jobs that still wait what they wait for."""
        untold, self._desk.untold = self._desk.untold, []
        if not untold:
            return
        reasons = {held.group: held.why for held in self.held}
        for job in untold:
            waiting = next((task for task in job.tasks if task.state in ("waiting", "retrying")), None)
            if waiting is None or job.verdict:
                continue
            why = reasons.get(waiting.group)
            detail = f"{why.rule}: needs {why.need:g}, there is {why.have:g}" if why else "the next attempt"
            self._desk.effects.state(job, "waiting", detail, waiting.epoch)
