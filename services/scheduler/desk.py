"""What records mean for devices: heartbeats, deaths, hangs, silence, drains. No I/O but the effects.

A device is *lost* when its process is known to be gone, and *given up* when it hangs or is unheard of: then it may wake, so
it is fenced first. Either way its tasks go on elsewhere at once. Against which of them that speaks:

- a process that a signal ended: against all that it had in hand (a task that kills in its first moment is in no list yet);
- a step that hangs: against those that run in it, or all in hand where none does (a model that hangs while it loads);
- silence: against those that ran, once the node says that it had to kill the silent worker (the network may be silent, too);
- an orderly end, the end of a life that was given up for a hang: against none (more).

Of those that ran together nobody knows which one is to blame, so from the second time on each of them runs alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import structlog

from llmos.infra.settings.tree import Scheduler
from llmos.schemas.control import Drain
from llmos.schemas.errors import UnknownDevice, WorkerDeaths
from llmos.schemas.ids import term_of
from llmos.schemas.job import Task
from llmos.schemas.telemetry import Heartbeat, WorkerDied
from llmos.services.scheduler.drains import Drains
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.fences import Fences
from llmos.services.scheduler.fleet import Device
from llmos.services.scheduler.job_desk import JobDesk
from llmos.services.scheduler.jobs import LiveJob, LiveTask, TaskName

log = structlog.get_logger()

SILENCED = 1000
"""Silent lives of which the end is still waited for, at most."""


class Desk(JobDesk):
    """The derived state, and what changes it."""

    def __init__(self, settings: Scheduler, term: int, effects: Effects, now: float) -> None:
        super().__init__(settings, term, effects, now)
        self.drains = Drains()
        self.fences = Fences()
        self.windows: dict[str, dict[str, float]] = {}
        """What the windows of devices were when they were last looked at: their next life begins with them."""
        self._own_word_at = 0.0
        self._silenced: dict[tuple[str, int], list[TaskName]] = {}
        """What ran on lives that were given up for their silence, by device and process."""

    def heartbeat(self, message: Heartbeat, now: float) -> None:
        """A worker lives."""
        if self.fences.hold(message):
            self._fence_again(message, now)
            return
        device = self.fleet.get(message.device)
        if device is None or message.incarnation > device.incarnation:
            device = self._born(message, device, now)
        elif message.incarnation < device.incarnation:
            return
        else:
            device.heard(message, now)
        for named in (*message.queued, *message.running):
            self._adopt(device, named, now)
        self.progress(device.name, message.progress)
        for named in message.done:
            task = self.jobs.task((named.partition, named.s, named.part))
            if task is not None:
                self._done(task)
        self._miss(device, message, now)

    def _born(self, message: Heartbeat, before: Device | None, now: float) -> Device:
        """A life that was not known yet."""
        if before is not None:
            self._lost(before, "its worker was replaced", () if before.draining else before.in_flight.values(), now)
        undone = self.drains.reborn(message.device, now)
        if undone is not None:
            self.drains.take(undone)
            self.effects.control(message.device, undone)
        device = Device(message, self.settings, now)
        device.begin_with(self.windows.get(device.name, {}))
        device.drained = device.name in self.drains
        self.fleet.put(device)
        return device

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
        device.has(task, now)
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

    # --- lives that end ---

    def worker_died(self, message: WorkerDied, now: float) -> None:
        """A node saw the end of a worker."""
        if message.signal:
            self._count_silenced(self._silenced.pop((message.device, message.pid), ()))
        device = self.fleet.get(message.device)
        if device is not None and device.last.pid == message.pid:
            orderly = not message.signal or device.draining
            suspects = () if orderly else device.in_flight.values()
            self._lost(device, f"its worker died: {message.reason}", suspects, now)

    def hear_first(self, now: float) -> None:
        """The scheduler itself stood still: nobody is silent until there was time to hear them."""
        for device in self.fleet:
            device.last_seen = now

    def own_word(self, said_at: float) -> None:
        """The scheduler read what it said on `telemetry` itself: all that was said there before is read, too."""
        self._own_word_at = max(self._own_word_at, said_at)

    def lose_silent(self, now: float) -> None:
        """Gives up devices that hang or are unheard of; looks after drains, and after tasks that avoid a device."""
        for device in list(self.fleet):
            reason = device.hung(now)
            if reason is None:
                continue
            silent = not device.alive(now)
            if silent and not self._listened(device):
                continue
            if silent:
                # It is the network's word as well as the worker's, and speaks against no task until the node has to kill it.
                names = [task.name for task in _hanging(device)]
                self._silenced[device.name, device.last.pid] = names
                while len(self._silenced) > SILENCED:
                    del self._silenced[next(iter(self._silenced))]
            self._give_up_device(device, reason, () if silent else _hanging(device), now)
        self.reconcile_avoiding(now)
        self._look_after_drains(now)

    def _count_silenced(self, names: Iterable[TaskName]) -> None:
        """A silent worker had to be killed: it was the worker that was silent, under these tasks."""
        for name in names:
            task = self.jobs.task(name)
            if task is None or task.state in ("done", "ended"):
                continue
            task.deaths = self.deaths.died(task)
            if task.deaths >= self.settings.deaths:
                self._give_up(task, WorkerDeaths(deaths=task.deaths))

    def _listened(self, device: Device) -> bool:
        """Whether the log brought anything since the device was heard: else the log is silent, not the device.

        The topic is one partition, in order: if the scheduler reads its own word of a later time, then the device had
        said nothing until then.
        """
        missed = self.settings.heartbeat_timeout_seconds - 1.5 * self.settings.report_seconds
        return self._own_word_at >= device.last_seen + max(missed, self.settings.heartbeat_timeout_seconds / 4)

    def _give_up_device(self, device: Device, reason: str, suspects: Collection[LiveTask], now: float) -> None:
        self.effects.control(device.name, self.fences.give_up(device.last, reason, now))
        self._lost(device, reason, suspects, now)

    def _fence_again(self, message: Heartbeat, now: float) -> None:
        fence = self.fences.again(message, now)
        if fence is not None:
            log.warning("fenced_device_beats", device=message.device, incarnation=message.incarnation)
            self.effects.control(message.device, fence)

    def _lost(self, device: Device, reason: str, suspects: Collection[LiveTask], now: float) -> None:
        log.warning("device_lost", device=device.name, reason=reason, tasks=len(device.in_flight))
        suspected = {task.name for task in suspects}
        self.fleet.drop(device)
        self.windows[device.name] = device.windows()
        for task in list(device.in_flight.values()):
            device.gave_back(task, now)
            if task.name in suspected:
                task.deaths = self.deaths.died(task)
            if task.deaths >= self.settings.deaths:
                self._give_up(task, WorkerDeaths(deaths=task.deaths))
            else:
                self.again(task, reason)

    # --- drains ---

    def drain(self, message: Drain, *, restored: bool = False) -> int:
        """The device takes no more work, or takes it again; gives how many tasks it has in hand.

        Raises:
            UnknownDevice: there is none of that name (and this was no record of before the start).
        """
        device = self.fleet.get(message.device)
        if device is None and not restored and message.device not in self.drains:
            if not message.undo:
                # The record is there, and the next scheduler would believe it.
                self.effects.control(message.device, Drain(device=message.device, at=message.at, undo=True))
            raise UnknownDevice(device=message.device)
        self.drains.take(message)
        if device is None:
            return 0
        device.drained = not message.undo
        return len(device.in_flight)

    def _look_after_drains(self, now: float) -> None:
        for name in self.drains.names():
            device = self.fleet.get(name)
            if device is not None and not device.in_flight:
                self.drains.finished(name)
        for message in self.drains.fading(now):
            self.effects.control(message.device, message)


def _over(job: LiveJob) -> bool:
    return all(task.state == "ended" for task in job.tasks)


def _hanging(device: Device) -> list[LiveTask]:
    """The tasks of a step that hangs; all in hand where none is in it."""
    running = {(named.partition, named.s, named.part) for named in device.last.running}
    found = [task for task in device.in_flight.values() if task.name in running]
    return found or list(device.in_flight.values())
