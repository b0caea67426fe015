"""What records mean for jobs and devices: submissions, receipts, heartbeats, deaths, cancels. No I/O but the effects."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from llmos.infra.settings.tree import Scheduler
from llmos.pipelines.scheduling.snapshot import Group
from llmos.schemas.admitted import Refusal
from llmos.schemas.control import Cancel
from llmos.schemas.errors import (
    AttemptsExhausted,
    Cancelled,
    Expired,
    IdempotencyConflict,
    LlmosError,
    WorkerDeaths,
)
from llmos.schemas.ids import term_of
from llmos.schemas.job import Task, error_info
from llmos.schemas.partials import VerdictKind
from llmos.schemas.results import Receipt
from llmos.schemas.sealed import Job
from llmos.schemas.telemetry import Heartbeat, TaskFailed, TasksDone, WorkerDied
from llmos.services.scheduler.bindings import Bindings
from llmos.services.scheduler.cancels import Cancels
from llmos.services.scheduler.deaths import DeathLedger
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.fleet import Device, Fleet
from llmos.services.scheduler.jobs import Jobs, LiveJob, LiveTask

log = structlog.get_logger()

SUSPECT_DEATHS = 2
"""From so many deaths on a task runs alone."""
RETRY_SECONDS = 0.1
"""Before the second attempt; doubles with each."""


class Desk:
    """The derived state, and what changes it."""

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
        self._adopt_until = now + settings.adopt_seconds

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
        meeting = self.bindings.meet(head.job_id, s, head.origin, head.content_digest, appended_at)
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
        if self._close(job):
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
        """A verdict: nothing more is done for the job; its receipt removes it."""
        if self._close(job):
            self.effects.cancel_tasks(job.partition, job.s)
        job.verdict = kind
        self.effects.verdict(job, kind, refusal.error if refusal else error_info(error) if error else None)

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
        if task.deaths >= SUSPECT_DEATHS:
            self.jobs.regroup(task, Group(task.group.kind, task.group.model, alone=True))
        if task.job.restored and task.attempts == 0:
            # It may be at work: its worker's next heartbeat says so.
            self.jobs.later(task, self._adopt_until)
        else:
            self.jobs.wait(task)

    def _free(self, task: LiveTask) -> None:
        device = self.fleet.get(task.device)
        if device is not None:
            device.gave_back(task)

    def again(self, task: LiveTask, reason: str, delay_until: float | None = None) -> None:
        """The attempt is lost: the task waits for the next."""
        self._free(task)
        task.become("retrying")
        self.effects.state(task.job, "moved", reason, task.epoch, task.device)
        if task.deaths >= SUSPECT_DEATHS:
            self.jobs.regroup(task, Group(task.group.kind, task.group.model, alone=True))
        if delay_until is not None:
            self.jobs.later(task, delay_until)
        else:
            self.jobs.wait(task)
        if task.job not in self.untold:
            self.untold.append(task.job)

    def _give_up(self, task: LiveTask, error: LlmosError) -> None:
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

    def failed(self, message: TaskFailed, now: float) -> None:
        """An attempt failed in a way that another may mend."""
        named = message.task
        task = self.jobs.task((named.partition, named.s, named.part))
        if task is None or task.state != "dispatched" or task.epoch != named.epoch:
            return
        if task.attempts >= self.settings.attempts:
            self._give_up(task, AttemptsExhausted(attempts=task.attempts, last=message.error.message[:512]))
        else:
            self.again(task, message.error.message[:512], now + RETRY_SECONDS * 2 ** (task.attempts - 1))

    # --- devices ---

    def heartbeat(self, message: Heartbeat, now: float) -> None:
        """A worker lives."""
        device = self.fleet.get(message.device)
        if device is None or message.incarnation > device.incarnation:
            if device is not None:
                self._lost(device, "its worker was replaced", counts=not device.draining)
            device = Device(message, self.settings, now)
            self.fleet.put(device)
        elif message.incarnation < device.incarnation:
            return
        else:
            device.heard(message, now)
        for named in (*message.queued, *message.running):
            self._adopt(device, named, now)
        for named in message.done:
            task = self.jobs.task((named.partition, named.s, named.part))
            if task is not None:
                self._done(task)
        self._miss(device, message, now)

    def _adopt(self, device: Device, named: Task, now: float) -> None:
        task = self.jobs.task((named.partition, named.s, named.part))
        if task is None or task.state == "ended":
            # A part that was given up is over by itself: its siblings may be at work, and workers stop whole submissions.
            over = self.answered(named.partition, named.s) if task is None else _over(task.job)
            if over:
                self.effects.cancel_tasks(named.partition, named.s)
            return
        if task.state != "waiting" or not task.job.restored or term_of(named.epoch) > self.term:
            return
        self.jobs.leave(task)
        task.attempts = max(task.attempts, 1)
        task.epoch, task.device, task.incarnation = named.epoch, device.name, device.incarnation
        task.dispatched_at = now
        task.become("dispatched")
        device.has(task)
        log.info("task_adopted", job=task.job.head.job_id.hex(), device=device.name, epoch=named.epoch)

    def _miss(self, device: Device, message: Heartbeat, now: float) -> None:
        """Tasks that should be there and are not listed are dispatched again."""
        grace = self.settings.dispatch_grace_seconds
        overdue = [task for task in device.in_flight.values() if now - task.dispatched_at > grace]
        if not overdue:
            return
        listed = {(t.partition, t.s, t.part) for t in (*message.queued, *message.running, *message.done)}
        for task in overdue:
            if task.name not in listed:
                self.again(task, f"{device.name} does not list it")

    def worker_died(self, message: WorkerDied) -> None:
        """A node saw the end of a worker."""
        device = self.fleet.get(message.device)
        if device is not None and device.last.pid == message.pid:
            self._lost(
                device, f"its worker died: {message.reason}", counts=bool(message.signal) and not device.draining
            )

    def hear_first(self, now: float) -> None:
        """The scheduler itself stood still: nobody is silent until there was time to hear them."""
        for device in self.fleet:
            device.last_seen = now

    def lose_silent(self, now: float) -> None:
        """Devices unheard of for too long are taken for lost."""
        for device in list(self.fleet):
            if not device.alive(now):
                # Silence is the network's word as well as the worker's: it speaks against no task.
                self._lost(device, "its worker is silent", counts=False)

    def drain(self, name: str) -> None:
        """The device takes no more work."""
        device = self.fleet.get(name)
        if device is not None:
            device.drained = True

    def _lost(self, device: Device, reason: str, *, counts: bool) -> None:
        log.warning("device_lost", device=device.name, reason=reason, tasks=len(device.in_flight))
        self.fleet.drop(device)
        for task in list(device.in_flight.values()):
            device.gave_back(task)
            if counts:
                task.deaths = self.deaths.died(task)
            if task.deaths >= self.settings.deaths:
                self._give_up(task, WorkerDeaths(deaths=task.deaths))
            else:
                self.again(task, reason)


def _over(job: LiveJob) -> bool:
    return all(task.state == "ended" for task in job.tasks)
