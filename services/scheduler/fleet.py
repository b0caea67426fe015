"""Devices as their heartbeats describe them: what is in flight, what is resident, windows, costs, λ and μ as measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from llmos.infra.settings.tree import Scheduler
from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.hangs import hung
from llmos.pipelines.scheduling.meter import DeviceMeter
from llmos.pipelines.scheduling.pooling import Pool, Work, pooled
from llmos.pipelines.scheduling.snapshot import DeviceView, Group
from llmos.pipelines.scheduling.windows import Seen, first_window, next_window
from llmos.schemas.telemetry import DeviceReport, Heartbeat
from llmos.services.scheduler.jobs import LiveTask, TaskName

DEFAULT_LOAD_RATE = 200e6
"""Bytes per second assumed for loading (reading, hashing) until a load was measured."""
ECHO = "echo"
KINDS_APART = frozenset({ECHO})
"""Kinds with a window of their own: they cost next to no device time."""
VIEW_SECONDS = 0.25
"""A view is as good as new for so long if nothing happened on the device."""
POOL_SECONDS = 1.0
"""How often the measurements of all devices are pooled."""
PROGRESS_SHARE = 0.9
"""Work in flight counts as done with the time that passes, up to this share."""


class Device:
    """One life of one worker."""

    def __init__(self, heartbeat: Heartbeat, settings: Scheduler, now: float) -> None:
        self._settings = settings
        self.name = heartbeat.device
        self.incarnation = heartbeat.incarnation
        self.last = heartbeat
        self.last_seen = now
        self.drained = False
        self.in_flight: dict[TaskName, LiveTask] = {}
        self.delay_seconds = 0.0
        """Mean wait on the device of the tasks that began last."""
        self.meter = DeviceMeter(
            settings.rate_half_life_seconds, settings.speed_half_life_seconds, heartbeat.served, now
        )
        self.pool = Pool({}, {})
        """What all devices measured; set by the fleet."""
        self._kinds: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._alone = 0
        self._work: dict[str, float] = {}
        self._progress_at: dict[str, float] = {}
        """By kind, when the last task left, or came to none."""
        self._coming: dict[str, float] = {}
        """Models that tasks were sent here to load: when they should be there."""
        self._window = first_window(heartbeat.slots, settings.window_factor)
        self._was_full = False
        self._costs: dict[Work, Cost] = {}
        self._costs_of: tuple[Heartbeat, Pool] | None = None
        self._view: DeviceView | None = None
        self._view_at = now

    @property
    def draining(self) -> bool:
        """It takes no more work."""
        return self.drained or self.last.draining

    def alive(self, now: float) -> bool:
        """Whether it was heard of lately."""
        return now - self.last_seen <= self._settings.heartbeat_timeout_seconds

    def hung(self, now: float) -> str | None:
        """Why it is taken for hung; None: it is not."""
        return hung(self.last, self.last_seen, now, self._settings.heartbeat_timeout_seconds)

    def may_run(self, group: Group, now: float) -> bool:
        """Whether it could ever run such tasks: it lives, takes work, runs the kind and has the model."""
        if not self.alive(now) or self.draining or group.kind not in self.last.kinds:
            return False
        return not group.model or group.model in self.last.models

    def heard(self, heartbeat: Heartbeat, now: float) -> None:
        """Takes in a heartbeat of this life."""
        before, self.last = self.last, heartbeat
        self.last_seen = now
        self._view = None
        self.meter.heard(heartbeat.served, heartbeat.busy_seconds - before.busy_seconds, now)
        for resident in heartbeat.residents:
            self._coming.pop(resident.model, None)
        self._open_window(before, now)

    def _open_window(self, before: Heartbeat, now: float) -> None:
        """The window for what comes, by what the last heartbeats tell."""
        began = self.last.started - before.started
        delay = max(self.last.waited_seconds - before.waited_seconds, 0.0) / began if began > 0 else None
        if delay is not None:
            self.delay_seconds = delay
        seen = Seen(delay, self._was_full, max(self.last.idle_seconds - before.idle_seconds, 0.0))
        settings = self._settings
        self._window = next_window(
            self._window,
            seen,
            self.last.slots,
            self.meter.interval_seconds(KINDS_APART, now),
            settings.delay_target_seconds,
            settings.window_factor,
        )
        self._was_full = self._shared() >= int(self._window)

    def windows(self) -> dict[str, float]:
        """How many tasks it may have in flight, by kind; `""` stands for the kinds without a window of their own."""
        return {"": self._window, ECHO: float(self._settings.echo_window)}

    def begin_with(self, windows: Mapping[str, float]) -> None:
        """Its window as it was in its last life, as far as its slots are still as many."""
        if "" in windows:
            self._window = max(windows[""], float(self.last.slots)) if self.last.slots else 0.0
            self._view = None

    def took(self, task: LiveTask, now: float, load_seconds: float = 0.0) -> None:
        """The task is on its way to this device, which must load its model for `load_seconds` first."""
        self.has(task, now)
        group = task.group
        self.meter.arrived((group.model, group.kind), task.part.max_output_tokens, now)
        if load_seconds > 0.0 and group.model not in self._known_models():
            self._coming.setdefault(group.model, now + load_seconds)

    def has(self, task: LiveTask, now: float | None = None) -> None:
        """The task is in flight here, also one that was found here after a start: no arrival."""
        self._view = None
        kind = task.group.kind
        self.in_flight[task.name] = task
        if not self._kinds[kind]:
            self._progress_at[kind] = self.last_seen if now is None else now
        self._kinds[kind] += 1
        self._models[task.group.model] += 1
        self._alone += task.group.alone
        self._work[kind] = self._work.get(kind, 0.0) + task.expected_seconds
        if kind not in KINDS_APART and self._shared() >= int(self._window):
            self._was_full = True

    def gave_back(self, task: LiveTask, now: float | None = None) -> None:
        """The task is no longer in flight here."""
        if self.in_flight.pop(task.name, None) is None:
            return
        self._view = None
        kind, model = task.group.kind, task.group.model
        self._kinds[kind] -= 1
        self._models[model] -= 1
        self._alone -= task.group.alone
        self._work[kind] = max(self._work[kind] - task.expected_seconds, 0.0) if self._kinds[kind] else 0.0
        self._progress_at[kind] = self.last_seen if now is None else now
        if not self._models[model]:
            del self._models[model]
            self._coming.pop(model, None)

    def view(self, now: float) -> DeviceView:
        """For the decision; the same object while nothing changes."""
        view, alive, draining = self._view, self.alive(now), self.draining
        if view is not None and now - self._view_at < VIEW_SECONDS and (view.alive, view.draining) == (alive, draining):
            return view
        last, rate = self.last, self._load_rate()
        loading = {model: max(at - now, 0.0) for model, at in self._coming.items()}
        for resident in last.residents:
            if resident.state == "loading":
                loading[resident.model] = max(resident.weight_bytes - resident.loaded_bytes, 0) / rate
        self._view_at = now
        self._view = DeviceView(
            device=self.name,
            alive=alive,
            draining=draining,
            kinds=frozenset(last.kinds),
            models=frozenset(last.models),
            slots=last.slots,
            window={kind: int(size) for kind, size in self.windows().items()},
            in_flight={kind: count for kind, count in self._kinds.items() if count},
            in_flight_alone=self._alone,
            resident=frozenset(self._known_models()),
            budget_bytes=last.budget_bytes,
            utilisation=self.meter.utilisation(now),
            work_seconds=self._remaining(now),
            costs=self.costs(now),
            load_bytes_per_second=rate,
            loading=loading,
            resident_bytes=last.resident_bytes,
            memory_pressure=last.host.memory_pressure if last.host else 0.0,
            pinned_bytes=sum(r.resident_bytes for r in last.residents if r.pinned),
        )
        return self._view

    def costs(self, now: float) -> dict[Work, Cost]:
        """What tasks cost it now, by model and kind."""
        known = (self.last, self.pool)
        if self._costs_of is None or self._costs_of[0] is not known[0] or self._costs_of[1] is not known[1]:
            self._costs_of = known
            self._costs = self.meter.costs(
                self.pool.costs,
                lambda work: self.pool.prior(self.name, work),
                now,
                self.pool.others.get(self.name),
            )
        return self._costs

    def report(self, now: float) -> DeviceReport:
        """For people."""
        return DeviceReport(
            device=self.name,
            node=self.last.node,
            alive=self.alive(now),
            arrival_rate=self.meter.arrival_rate(now),
            service_rate=self.meter.service_rate(now),
            utilisation=self.meter.utilisation(now),
            window=sum(int(size) for size in self.windows().values()),
            in_flight=len(self.in_flight),
            budget_bytes=self.last.budget_bytes,
            resident_bytes=self.last.resident_bytes,
            residents=list(self.last.residents),
            rates=self.meter.rates(self.costs(now), now),
            served=self.meter.tasks_served,
            draining=self.draining,
            delay_seconds=self.delay_seconds,
            backlog_seconds=sum(self._remaining(now).values()),
            host=self.last.host,
            load=self.last.load,
        )

    def _shared(self) -> int:
        """Tasks in flight that share a window."""
        return sum(count for kind, count in self._kinds.items() if kind not in KINDS_APART)

    def _known_models(self) -> set[str]:
        found = {r.model for r in self.last.residents if r.state in ("resident", "loading")}
        return found.union(self._coming)

    def _remaining(self, now: float) -> dict[str, float]:
        """By kind, the work in flight less what was done since the last task left.

        Where nothing left for longer than all of it should take, it will take as long again as it is late: so nobody
        waits for ever for a device that should have been done long ago.
        """
        found = {}
        for kind, work in self._work.items():
            if work > 0.0:
                gone = max(now - self._progress_at.get(kind, now), 0.0)
                found[kind] = max(work - min(gone, PROGRESS_SHARE * work), gone - work)
        return found

    def _load_rate(self) -> float:
        loads = [r for r in self.last.residents if r.load_seconds > 0 and r.resident_bytes]
        if not loads:
            return DEFAULT_LOAD_RATE
        return sum(r.resident_bytes for r in loads) / sum(r.load_seconds for r in loads)


class Fleet:
    """All devices that were heard of."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
        self._pooled_at = float("-inf")
        self.largest_budget = 0
        """Of all devices that were ever heard of, in bytes."""

    def __iter__(self) -> Iterator[Device]:
        return iter(sorted(self._devices.values(), key=lambda device: device.name))

    def get(self, name: str) -> Device | None:
        """A device by name."""
        return self._devices.get(name)

    def put(self, device: Device) -> None:
        """A new life of a device."""
        self._devices[device.name] = device
        self._pooled_at = float("-inf")
        self.largest_budget = max(self.largest_budget, device.last.budget_bytes)

    def drop(self, device: Device) -> None:
        """The device's worker is gone."""
        if self._devices.get(device.name) is device:
            del self._devices[device.name]

    def views(self, now: float) -> list[DeviceView]:
        """All devices for the decision, by name; their measurements are pooled now and then."""
        if now - self._pooled_at >= POOL_SECONDS:
            self._pooled_at = now
            pool = pooled({device.name: device.meter.measured() for device in self._devices.values()})
            for device in self._devices.values():
                device.pool = pool
        return [device.view(now) for device in self]
