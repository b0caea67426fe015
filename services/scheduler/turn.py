"""A turn of the scheduler: what is due by the time, the decision, what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.decision import Chosen, Decision, Held
from llmos.pipelines.scheduling.explain import Explanation, Explanations
from llmos.pipelines.scheduling.snapshot import Carried
from llmos.schemas.ids import epoch_of
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.jobs import LiveTask
from llmos.services.scheduler.recording import Recording
from llmos.services.scheduler.refusing import Refusing
from llmos.services.scheduler.telling import Telling
from llmos.services.scheduler.views import snapshot_of

SILENCE_LOOK_SECONDS = 0.5
"""How often devices are looked over for silence."""
STANDSTILL_SECONDS = 2.0
"""A turn that is later than this was held up: heartbeats wait unread behind it."""


class Turn:
    """Takes turns over the desk."""

    def __init__(
        self, desk: Desk, models: Mapping[str, Any], weights: Callable[[], Mapping[str, float]] = dict[str, float]
    ) -> None:
        """`weights` gives those of the tenants as they are now; one that is missing has 1."""
        self._desk = desk
        self._models = models
        self._weights = weights
        self._carried = Carried()
        self._looked_at = 0.0
        self._refusing = Refusing(desk, models)
        self._telling = Telling(desk, self.explain, self._refusing.too_late)
        self._recording = Recording(desk)
        self._explanations: Explanations | None = None
        self._at = 0.0
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
        self._carried = decision.carried
        for chosen in decision.chosen:
            self._dispatch(chosen, now)
        self.held = decision.held
        self._at = now
        self._explanations = None
        self._refusing.look(decision.held, now)
        self._telling.tell(now)
        times = [desk.jobs.next_time(), decision.next_at, now + SILENCE_LOOK_SECONDS]
        return min(time for time in times if time is not None)

    def explain(self, task: LiveTask) -> Explanation | None:
        """What a waiting task waits for, as of the last turn; None: it does not wait, or came since."""
        if not task.queued or not self.held:
            return None
        if self._explanations is None:
            # As things are once the last decision is carried out.
            snapshot = snapshot_of(self._desk, self._models, self._carried, self._at, self._weights())
            self._explanations = Explanations(snapshot, self.held, self._at)
        return self._explanations.of(task.group, task.key)

    def _decide(self, now: float) -> Decision:
        if not self._desk.jobs.anybody_waits:
            # Most turns bring receipts and heartbeats only: looking at all devices for nobody is half their cost.
            return Decision([], [], None, self._carried)
        snapshot = snapshot_of(self._desk, self._models, self._carried, now, self._weights())
        decision = decide(snapshot, now)
        self._recording.saw(snapshot, decision, now)
        return decision

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
        device.took(task, now, chosen.load_seconds)
        desk.effects.work(task, now)
