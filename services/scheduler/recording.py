"""Leaves a record of each decision on `telemetry`: candidates, predictions, choice, reasons; and what the policy saw, if asked."""

from __future__ import annotations

from llmos.infra.log.port import Place
from llmos.pipelines.scheduling.decision import Chosen, Decision, Held, Option
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.replay import Recorder
from llmos.pipelines.scheduling.snapshot import Snapshot
from llmos.schemas import topics
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import Task
from llmos.schemas.telemetry import Candidate, Decided, PolicyInput
from llmos.services.scheduler.desk import Desk

HELD_SECONDS = 1.0
"""Tasks that are held by one rule leave a record so often at most, and one whenever the rule changes."""
_TELEMETRY = Place(topics.TELEMETRY, 0)
_KEY = "decisions"


class Recording:
    """Decisions about tasks that need a model are told; the others are too many and too cheap (`echo`)."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._recorder = Recorder(desk.term) if desk.settings.record == "inputs" else None
        self._told: dict[tuple[str, str, bool, str], tuple[str, float]] = {}
        self.turn = 0

    def saw(self, snapshot: Snapshot, decision: Decision, now: float) -> None:
        """A decision was made of `snapshot`, and nothing of it was carried out yet."""
        self.turn += 1
        if self._recorder is not None:
            message: PolicyInput = self._recorder.record(snapshot, decision, self.turn, now)
            self._desk.effects.put(_TELEMETRY, _KEY, message)
        for chosen in decision.chosen:
            if chosen.options:
                self._desk.effects.put(_TELEMETRY, _KEY, self._chosen(chosen, now))
        for held in decision.held:
            if held.options and self._due(held, now):
                self._desk.effects.put(_TELEMETRY, _KEY, self._held(held, now))

    def _due(self, held: Held, now: float) -> bool:
        name = held.group[:4]
        rule, at = self._told.get(name, ("", 0.0))
        if rule == held.why.rule and now - at < HELD_SECONDS:
            return False
        if len(self._told) > 1000:
            self._told.clear()
        self._told[name] = (held.why.rule, now)
        return True

    def _chosen(self, chosen: Chosen, now: float) -> Decided:
        return Decided(
            at=now, term=self._desk.term, turn=self.turn, task=self._task(chosen.task), kind=chosen.group.kind,
            model=chosen.group.model, device=chosen.device, predicted_start_at=chosen.start_at,
            predicted_done_at=chosen.done_at, candidates=_candidates(chosen.options),
        )  # fmt: skip

    def _held(self, held: Held, now: float) -> Decided:
        return Decided(
            at=now, term=self._desk.term, turn=self.turn, task=self._task(held.first), tasks=held.tasks,
            kind=held.group.kind, model=held.group.model, rule=held.why.rule, need=held.why.need, have=held.why.have,
            candidates=_candidates(held.options),
        )  # fmt: skip

    def _task(self, key: Key) -> Task:
        """The attempt that the decision is about: the next one."""
        task = self._desk.jobs.task((key.partition, key.s, key.part))
        attempts = task.attempts if task is not None else 0
        return Task(key.partition, key.s, key.part, epoch_of(self._desk.term, attempts + 1))


def _candidates(options: tuple[Option, ...]) -> list[Candidate]:
    found = []
    for device, why, prediction in options:
        rule, need, have = why if why is not None else ("", 0.0, 0.0)
        wait, load, service, _ = prediction if prediction is not None else (0.0, 0.0, 0.0, 0.0)
        found.append(
            Candidate(
                device=device,
                rule=rule,
                need=need,
                have=have,
                wait_seconds=wait,
                load_seconds=load,
                service_seconds=service,
            )
        )
    return found
