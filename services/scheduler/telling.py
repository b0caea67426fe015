"""Tells waiting jobs what they wait for: when it changes, at most once a second each, and so many in a turn at most."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llmos.pipelines.scheduling.explain import Explanation
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.jobs import LiveJob, LiveTask

AGAIN_SECONDS = 1.0
"""Between two looks at one job."""
PER_TURN = 200
"""Jobs looked at in one turn at most: telling must not hold up deciding."""
PER_SECOND = 1000


@dataclass(slots=True, eq=False)
class _Waiter:
    """A job that waits, and what it was told last."""

    job: LiveJob
    due: float
    told: Explanation | None = None
    detail: str = ""


class Telling:
    """All jobs that wait, the one looked at longest ago first: a turn costs what it tells, however many wait."""

    def __init__(
        self,
        desk: Desk,
        explain: Callable[[LiveTask], Explanation | None],
        too_late: Callable[[LiveJob, Explanation, float], bool],
    ) -> None:
        self._desk = desk
        self._explain = explain
        self._too_late = too_late
        self._ring: deque[_Waiter] = deque()
        self._new: deque[_Waiter] = deque()
        self._waiters: dict[tuple[int, int], _Waiter] = {}
        self._allowance = float(PER_SECOND)
        self._at = 0.0

    def tell(self, now: float) -> None:
        """Looks at the jobs whose turn it is."""
        untold, self._desk.untold = self._desk.untold, []
        for job in untold:
            # One that waits again after an attempt was lost is told at once, too.
            waiter = self._waiters.get((job.partition, job.s))
            if waiter is not None and waiter.job is job:
                waiter.told, waiter.detail = None, ""
                self._new.append(waiter)
            elif not job.verdict and _last_waiting(job) is not None:
                waiter = self._waiters[job.partition, job.s] = _Waiter(job, now)
                self._new.append(waiter)
        self._allowance = min(self._allowance + (now - self._at) * PER_SECOND, float(PER_SECOND))
        self._at = now
        for _ in range(PER_TURN):
            if self._allowance < 1.0:
                return
            waiter = self._next(now)
            if waiter is None:
                return
            self._allowance -= 1.0
            if self._look(waiter, now):
                waiter.due = now + AGAIN_SECONDS
                self._ring.append(waiter)
            else:
                self._waiters.pop((waiter.job.partition, waiter.job.s), None)

    @property
    def waiters(self) -> int:
        """Jobs that are looked at."""
        return len(self._waiters)

    def _next(self, now: float) -> _Waiter | None:
        if self._new:
            return self._new.popleft()
        while self._ring and self._ring[0].due <= now:
            waiter = self._ring.popleft()
            if self._waiters.get((waiter.job.partition, waiter.job.s)) is waiter:
                return waiter
        return None

    def _look(self, waiter: _Waiter, now: float) -> bool:
        """Whether the job still waits; tells it what has changed, and refuses it when it has become too late for it."""
        job = waiter.job
        first = _first_waiting(job)
        if first is None or job.verdict:
            return False
        if not first.queued:
            self._say(waiter, first, None, "the next attempt")
            return True
        last = _last_waiting(job)
        why = self._explain(first)
        whole = why if last is first or last is None or not last.queued else self._explain(last)
        if whole is not None and self._too_late(job, whole, now):
            return False
        if why is not None:
            self._say(waiter, first, why, f"{why.rule}: needs {why.need:g}, there is {why.have:g}")
        return True

    def _say(self, waiter: _Waiter, task: LiveTask, why: Explanation | None, detail: str) -> None:
        if waiter.job.head.events == "none" or not _changed(waiter, why, detail):
            return
        waiter.told, waiter.detail = why, detail
        if why is None:
            self._desk.effects.state(waiter.job, "waiting", detail, task.epoch)
            return
        self._desk.effects.state(
            waiter.job, "waiting", detail, task.epoch, rule=why.rule, need=why.need, have=why.have,
            position=why.position, predicted_start_at=why.predicted_start_at,
        )  # fmt: skip


def _changed(waiter: _Waiter, why: Explanation | None, detail: str) -> bool:
    """Another rule or place, or a start that moved by more than a second and a tenth of what is left."""
    told = waiter.told
    if told is None or why is None:
        return told is not why or waiter.detail != detail
    if (told.rule, told.position) != (why.rule, why.position):
        return True
    moved = abs(why.predicted_start_at - told.predicted_start_at)
    left = max(why.predicted_start_at - waiter.due, 0.0)
    return moved > max(1.0, 0.1 * left)


def _first_waiting(job: LiveJob) -> LiveTask | None:
    return next((task for task in job.tasks if task.state in ("waiting", "retrying")), None)


def _last_waiting(job: LiveJob) -> LiveTask | None:
    return next((task for task in reversed(job.tasks) if task.state in ("waiting", "retrying")), None)
