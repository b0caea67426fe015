"""Work that can never be done, and deadlines that cannot be met: what is held for good is answered instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmos.pipelines.scheduling.deadlines import unreachable
from llmos.pipelines.scheduling.decision import Held
from llmos.pipelines.scheduling.explain import Explanation
from llmos.schemas.catalog import Model, NodeModels
from llmos.schemas.errors import DeadlineUnreachable, FailedError, ModelGone, ModelQuarantined, NeverFits, RefusedError
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.jobs import LiveJob

_Alike = tuple[str, str, bool, str]


class Refusing:
    """Looks at what a turn held."""

    def __init__(self, desk: Desk, models: Mapping[str, Any]) -> None:
        self._desk = desk
        self._models = models
        self._since: dict[_Alike, float] = {}

    def look(self, held: Sequence[Held], now: float) -> None:
        """Ends what was too large for every device, or whose model nobody has whole, during a whole while: a larger device
        may be starting anew, and a model may be copied or mended just now."""
        if not held and not self._since:
            return
        hopeless: dict[_Alike, RefusedError | FailedError] = {}
        for entry in held:
            name = entry.group[:4]
            if name not in hopeless and (error := self._hopeless(entry)) is not None:
                hopeless[name] = error
        self._since = {name: self._since.get(name, now) for name in hopeless}
        wait = self._desk.settings.never_fits_seconds
        over = {name: error for name, error in hopeless.items() if now - self._since[name] >= wait}
        if over:
            self._end(over)

    def _hopeless(self, entry: Held) -> RefusedError | FailedError | None:
        if entry.why.rule == "memory":
            have = self._desk.fleet.largest_budget
            need = int(entry.why.need)
            return NeverFits(model=self._name(entry.group.model), need=need, have=have) if need > have else None
        return self._nowhere(entry.group.model) if entry.why.rule == "model" else None

    def _nowhere(self, identity: str) -> RefusedError | FailedError | None:
        """Why a model can be had nowhere: in quarantine, or gone; None: a node has it, or no node has told what it has."""
        nodes = [row for row in self._models.values() if isinstance(row, NodeModels)]
        if not nodes or any(identity in device.last.models for device in self._desk.fleet):
            return None
        if any(identity in node.models for node in nodes):
            return None
        name = self._name(identity)
        for node in nodes:
            for entry in node.quarantined:
                if entry.name == name:
                    return ModelQuarantined(model=name, node=node.node, problem=entry.error.message.removesuffix("."))
        return ModelGone(model=name)

    def _name(self, identity: str) -> str:
        model = self._models.get(identity)
        return model.name if isinstance(model, Model) else identity

    def _end(self, over: Mapping[_Alike, RefusedError | FailedError]) -> None:
        jobs = self._desk.jobs
        for group, keys in list(jobs.waiting()):
            error = over.get(group[:4])
            if error is None:
                continue
            for key in list(keys):
                task = jobs.task((key.partition, key.s, key.part))
                if task is not None and not task.job.verdict:
                    self._desk.end(task.job, "refused" if isinstance(error, RefusedError) else "failed", error)

    def too_late(self, job: LiveJob, why: Explanation, now: float) -> bool:
        """Refuses the job if it cannot be done in time by what is predicted of its last task, and nothing of it began."""
        settings = self._desk.settings
        predicted = unreachable(
            why.predicted_done_at, why.confidence, job.deadline, now, settings.deadline_margin,
            settings.deadline_confidence,
        )  # fmt: skip
        if predicted is None or job.verdict or any(task.attempts for task in job.tasks):
            return False
        self._desk.end(job, "refused", DeadlineUnreachable(predicted=predicted, timeout=job.head.timeout))
        return True
