"""What records mean for jobs and tasks: submissions, receipts, cancels, outcomes, failures. No I/O but the effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llmos.infra.settings.tree import Scheduler
from llmos.pipelines.scheduling.snapshot import Group
from llmos.schemas.admitted import Refusal
from llmos.schemas.control import Cancel
from llmos.schemas.errors import (
    AttemptsExhausted,
    Cancelled,
    DeviceOutOfMemory,
    EngineFailed,
    Expired,
    IdempotencyConflict,
    LlmosError,
    NeverFits,
    NotFinite,
)
from llmos.schemas.ids import attempt_of
from llmos.schemas.job import ErrorInfo, Task, Usage, error_info
from llmos.schemas.partials import VerdictKind
from llmos.schemas.results import Receipt
from llmos.schemas.sealed import Job
from llmos.schemas.telemetry import Progress, TaskFailed, TasksDone, TasksStopped
from llmos.services.scheduler.bindings import Bindings
from llmos.services.scheduler.cancels import Cancels
from llmos.services.scheduler.deaths import DeathLedger
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.fleet import Fleet
from llmos.services.scheduler.jobs import Heard, Jobs, LiveJob, LiveTask

SUSPECT_DEATHS = 2
"""From so many deaths on a task runs alone."""
RETRY_SECONDS = 0.1
"""Before the second attempt; doubles with each."""
AVOID_SECONDS = 10.0
"""A task keeps away from a device that failed it for so long, even if it must wait for another one."""
ONCE_ELSEWHERE = frozenset({EngineFailed.code, DeviceOutOfMemory.code, NotFinite.code})
"""Failures that the input itself may cause: tried once more, on another device if there is one; then they are the outcome."""


class JobDesk:
    """The derived state, and what jobs and tasks change in it."""

    def __init__(self, settings: Scheduler, term: int, effects: Effects, now: float) -> None:
        self.settings = settings
        self.term = term
        self.effects = effects
        self.jobs = Jobs()
        self.fleet = Fleet()
        self.bindings = Bindings(settings.idempotency_window_seconds, settings.idempotency_window_jobs)
        self.cancels = Cancels(settings.idempotency_window_jobs)
        self.deaths = DeathLedger()
        self.untold: list[LiveJob] = []
        """Jobs that have not been told yet what they wait for."""
        self.answered_holds: list[str] = []
        """Credits of jobs whose receipts were seen since somebody last looked."""
        self.answered: Callable[[int, int], bool] = lambda partition, s: False
        """Whether (partition, s) has its receipt; set once the state is restored."""
        self.settled_at = now + settings.adopt_seconds
        """Until then the fleet is not known: workers have not all been heard."""

    # --- submissions and receipts ---

    def submission(self, partition: int, s: int, message: Job | Refusal, appended_at: float, restored: bool) -> None:
        """A new, unanswered record of `sealed`."""
        head = message.head
        job = LiveJob(partition, s, head, appended_at + head.timeout, restored)
        if isinstance(message, Refusal):
            self.jobs.add(job, [])
            self.end(job, "refused", None, message)
            return
        self.jobs.add(job, message.parts)
        meeting = self.bindings.meet(head.job_id, s, head.origin, head.content_digest, appended_at, head.other_digest)
        if meeting is not None:
            kind, bound = meeting
            if kind == "pointer":
                self._close(job)
                job.verdict = "pointer"
                self.effects.verdict(job, "pointer", None, (bound.origin, bound.s))
            else:
                self.end(job, "refused", IdempotencyConflict())
            return
        if self.cancels.hit(head):
            self.end(job, "cancelled", Cancelled())
            return
        for task in job.tasks:
            task.deaths = self.deaths.of(task.name)
            self._queue(task)
        self.untold.append(job)

    def receipt(self, receipt: Receipt, appended_at: float) -> None:
        """A submission has its answer."""
        self.bindings.receipt(
            receipt.job_id, receipt.s, receipt.origin, receipt.content_digest, receipt.binds, appended_at
        )
        job = self.jobs.live.get((receipt.partition, receipt.s))
        if job is None:
            return
        # The receipt may come before word of the outcome it is of: that attempt has ended. Another one may be at work.
        ended = receipt.status == "completed" and not any(_is_repeated(task) for task in job.tasks)
        if self._close(job) and not ended:
            self.effects.cancel_tasks(receipt.partition, receipt.s)
        self.deaths.ended(job)
        self.answered_holds.append(job.head.hold)
        self.jobs.remove(receipt.partition, receipt.s)

    def cancel(self, message: Cancel, appended_at: float) -> None:
        """Somebody wants a job to end."""
        self.cancels.remember(message.tenant, message.job_id, message.at, appended_at)
        for job in self.jobs.with_id(message.job_id):
            if not job.verdict and self.cancels.hit(job.head):
                self.end(job, "cancelled", Cancelled())

    def expire(self, now: float) -> None:
        """Ends jobs whose deadline has passed."""
        for job in self.jobs.expired(now):
            self.end(job, "expired", Expired(timeout=job.head.timeout))

    def end(self, job: LiveJob, kind: VerdictKind, error: LlmosError | None, refusal: Refusal | None = None) -> None:
        """A verdict: nothing more is done for the job; its receipt removes it. What is under way counts as heard of so
        far: nobody waits for the last word of workers that may be gone."""
        spent = job.spent()
        if self._close(job):
            self.effects.cancel_tasks(job.partition, job.s)
        job.verdict = kind
        info = refusal.error if refusal else error_info(error) if error else None
        self.effects.verdict(job, kind, info, spent=spent)

    def _close(self, job: LiveJob) -> bool:
        """Ends the job's tasks; whether some of them are at work."""
        at_work = False
        for task in job.tasks:
            if task.state == "dispatched":
                at_work = True
                self._free(task)
            if task.state != "ended":
                self.jobs.end(task)
        return at_work

    # --- tasks ---

    def _queue(self, task: LiveTask) -> None:
        self.jobs.regroup(task, _group_of(task))
        if task.job.restored and task.attempts == 0:
            # It may be at work: its worker's next heartbeat says so.
            self.jobs.later(task, self.settled_at)
        else:
            self.jobs.wait(task)

    def _free(self, task: LiveTask) -> None:
        device = self.fleet.get(task.device)
        if device is not None:
            device.gave_back(task)

    def again(self, task: LiveTask, reason: str, delay_until: float | None = None, avoid: str = "") -> None:
        """The attempt is lost: the task waits for the next, on another device than `avoid`."""
        self._free(task)
        task.become("retrying")
        self.effects.state(task.job, "moved", reason, task.epoch, task.device)
        self.jobs.regroup(task, _group_of(task, avoid))
        if delay_until is not None:
            self.jobs.later(task, delay_until)
        else:
            self.jobs.wait(task)
        if task.job not in self.untold:
            self.untold.append(task.job)

    def _give_up(self, task: LiveTask, error: LlmosError | ErrorInfo) -> None:
        """The part ends with an error; the outcome goes the way of all outcomes."""
        self._free(task)
        self.effects.outcome_failed(task, error)
        self.jobs.end(task)

    def done(self, message: TasksDone) -> None:
        """Outcomes are on `partials`: of whatever attempt, they count."""
        for named in message.tasks:
            task = self.jobs.task((named.partition, named.s, named.part))
            if task is not None:
                self._done(task)

    def _done(self, task: LiveTask) -> None:
        if task.state in ("done", "ended"):
            return
        if task.state == "dispatched":
            self._free(task)
        else:
            self.jobs.leave(task)
            task.become("dispatched")  # an attempt that was given up has succeeded after all
        task.become("done")

    def progress(self, device: str, used: Sequence[Progress]) -> None:
        """What attempts on a device have used so far."""
        for one in used:
            usage = Usage(tokens_in=one.tokens_in, tokens_out=one.tokens_out, device_seconds=one.device_seconds)
            self._heard(device, one.task, usage)

    def stopped(self, message: TasksStopped) -> None:
        """A worker's last word on attempts that it stopped."""
        self.progress(message.device, message.used)

    def _heard(self, device: str, named: Task, usage: Usage) -> None:
        task = self.jobs.task((named.partition, named.s, named.part))
        if task is not None and (task.heard is None or named.epoch >= task.heard.epoch):
            task.heard = Heard(named.epoch, device, usage)

    def failed(self, message: TaskFailed, now: float) -> None:
        """An attempt failed in a way that another may mend."""
        named = message.task
        if message.usage != Usage():
            self._heard(message.device, named, message.usage)
        task = self.jobs.task((named.partition, named.s, named.part))
        if task is None or task.state != "dispatched" or task.epoch != named.epoch:
            return
        error = message.error
        task.faults += error.code in ONCE_ELSEWHERE
        too_large = error.code == NeverFits.code
        if task.faults > 1 or (too_large and not self._larger_may(task, now)):
            self._give_up(task, error)
        elif task.attempts >= self.settings.attempts:
            self._give_up(task, AttemptsExhausted(attempts=task.attempts, last=error.message[:512]))
        else:
            task.avoid_until = math.inf if too_large else now + AVOID_SECONDS
            avoid = task.device if self._others_may(task, now) else ""
            self.again(task, error.message[:512], now + RETRY_SECONDS * 2 ** (task.attempts - 1), avoid)

    def _others_may(self, task: LiveTask, now: float) -> bool:
        """Whether another device than the present one could ever run the task."""
        return any(device.name != task.device and device.may_run(task.group, now) for device in self.fleet)

    def _larger_may(self, task: LiveTask, now: float) -> bool:
        """Whether a device with more memory than the present one could ever run the task."""
        present = self.fleet.get(task.device)
        have = present.last.budget_bytes if present is not None else -1
        others = (device for device in self.fleet if device.name != task.device)
        return any(device.last.budget_bytes > have and device.may_run(task.group, now) for device in others)

    def reconcile_avoiding(self, now: float) -> None:
        """Tasks that keep away from a device come back to it where no other may run them, or none had room for long."""
        for group, keys in list(self.jobs.waiting()):
            if not group.avoid:
                continue
            for task in [self.jobs.task((key.partition, key.s, key.part)) for key in keys]:
                if task is not None and (now >= task.avoid_until or not self._others_may(task, now)):
                    self.jobs.regroup(task, _group_of(task))


def _group_of(task: LiveTask, avoid: str = "") -> Group:
    return task.group._replace(alone=task.deaths >= SUSPECT_DEATHS, avoid=avoid)


def _is_repeated(task: LiveTask) -> bool:
    """Whether an attempt before the present one may have made the outcome; one of an earlier scheduler, too."""
    return task.job.restored or attempt_of(task.epoch) > 1
