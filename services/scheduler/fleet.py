"""Devices as their heartbeats describe them: what is in flight, what is resident, λ and μ as measured."""

from __future__ import annotations

from collections.abc import Iterator

from llmos.infra.settings.tree import Scheduler
from llmos.pipelines.scheduling.rates import ArrivalRate, ServiceRate, utilisation
from llmos.pipelines.scheduling.snapshot import DeviceView
from llmos.schemas.telemetry import DeviceReport, Heartbeat, ModelRate, Served
from llmos.services.scheduler.jobs import LiveTask, TaskName

DEFAULT_LOAD_RATE = 200e6
"""Bytes per second assumed for loading (reading, hashing) until a load was measured."""
ECHO = "echo"


class Device:
    """One life of one worker."""

    def __init__(self, heartbeat: Heartbeat, settings: Scheduler, now: float) -> None:
        self._settings = settings
        half_life = settings.rate_half_life_seconds
        self.name = heartbeat.device
        self.incarnation = heartbeat.incarnation
        self.last = heartbeat
        self.last_seen = now
        self.drained = False
        self.in_flight: dict[TaskName, LiveTask] = {}
        self._kinds: dict[str, int] = {}
        self._alone = 0
        self._expected = 0.0
        self._arrivals = ArrivalRate(half_life, now)
        self._service = ServiceRate(half_life, now)
        self._rates: dict[tuple[str, str], tuple[ArrivalRate, ServiceRate]] = {}
        self._served: dict[tuple[str, str], Served] = {(e.model, e.kind): e for e in heartbeat.served}
        self._half_life = half_life

    @property
    def draining(self) -> bool:
        """It takes no more work."""
        return self.drained or self.last.draining

    def alive(self, now: float) -> bool:
        """Whether it was heard of lately."""
        return now - self.last_seen <= self._settings.heartbeat_timeout_seconds

    def heard(self, heartbeat: Heartbeat, now: float) -> None:
        """Takes in a heartbeat of this life."""
        tasks = 0
        for entry in heartbeat.served:
            key = (entry.model, entry.kind)
            before = self._served.get(key)
            done = entry.tasks - (before.tasks if before else 0)
            busy = entry.busy_seconds - (before.busy_seconds if before else 0.0)
            if done > 0:
                self._of(key, now)[1].served(done, max(busy, 0.0), now)
                tasks += done
            self._served[key] = entry
        busy = heartbeat.busy_seconds - self.last.busy_seconds
        if tasks or busy > 0:
            self._service.served(tasks, max(busy, 0.0), now)
        self.last = heartbeat
        self.last_seen = now

    def took(self, task: LiveTask, now: float) -> None:
        """The task is on its way to this device."""
        self.has(task)
        self._arrivals.arrived(1, now)
        self._of((task.group.model, task.group.kind), now)[0].arrived(1, now)

    def has(self, task: LiveTask) -> None:
        """The task is in flight here, also one that was found here after a start: no arrival."""
        self.in_flight[task.name] = task
        self._kinds[task.group.kind] = self._kinds.get(task.group.kind, 0) + 1
        self._alone += task.group.alone
        self._expected += task.expected_seconds

    def gave_back(self, task: LiveTask) -> None:
        """The task is no longer in flight here."""
        if self.in_flight.pop(task.name, None) is not None:
            self._kinds[task.group.kind] -= 1
            self._alone -= task.group.alone
            self._expected = max(self._expected - task.expected_seconds, 0.0) if self.in_flight else 0.0

    def view(self, now: float) -> DeviceView:
        """For the decision."""
        slots = self.last.slots
        means = {
            key: mean
            for key, (_, service) in self._rates.items()
            if (mean := service.mean_service_seconds(now)) is not None
        }
        return DeviceView(
            device=self.name,
            alive=self.alive(now),
            draining=self.draining,
            kinds=frozenset(self.last.kinds),
            models=frozenset(self.last.models),
            slots=slots,
            window=self._windows(),
            in_flight=dict(self._kinds),
            in_flight_alone=self._alone,
            resident=frozenset(r.model for r in self.last.residents if r.state in ("resident", "loading")),
            budget_bytes=self.last.budget_bytes,
            utilisation=self._utilisation(now),
            expected_seconds=self._expected,
            mean_service_seconds=means,
            load_bytes_per_second=self._load_rate(),
        )

    def report(self, now: float) -> DeviceReport:
        """For people."""
        rates = []
        for (model, kind), (arrivals, service) in sorted(self._rates.items()):
            arrival, rate = arrivals.value(now), service.value(now)
            rates.append(
                ModelRate(
                    model=model,
                    kind=kind,
                    arrival_rate=arrival,
                    service_rate=rate,
                    utilisation=utilisation(arrival, rate),
                    mean_service_seconds=service.mean_service_seconds(now) or 0.0,
                    samples=service.samples,
                )
            )
        return DeviceReport(
            device=self.name,
            node=self.last.node,
            alive=self.alive(now),
            arrival_rate=self._arrivals.value(now),
            service_rate=self._service.value(now),
            utilisation=self._utilisation(now),
            window=sum(self._windows().values()),
            in_flight=len(self.in_flight),
            budget_bytes=self.last.budget_bytes,
            resident_bytes=self.last.resident_bytes,
            residents=list(self.last.residents),
            rates=rates,
            served=sum(entry.tasks for entry in self._served.values()),
        )

    def _windows(self) -> dict[str, int]:
        return {"": self.last.slots * self._settings.window_factor, ECHO: self._settings.echo_window}

    def _utilisation(self, now: float) -> float:
        return utilisation(self._arrivals.value(now), self._service.value(now))

    def _load_rate(self) -> float:
        loads = [r for r in self.last.residents if r.load_seconds > 0 and r.resident_bytes]
        if not loads:
            return DEFAULT_LOAD_RATE
        return sum(r.resident_bytes for r in loads) / sum(r.load_seconds for r in loads)

    def _of(self, key: tuple[str, str], now: float) -> tuple[ArrivalRate, ServiceRate]:
        rates = self._rates.get(key)
        if rates is None:
            rates = self._rates[key] = (ArrivalRate(self._half_life, now), ServiceRate(self._half_life, now))
        return rates


class Fleet:
    """All devices that were heard of."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
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
        self.largest_budget = max(self.largest_budget, device.last.budget_bytes)

    def drop(self, device: Device) -> None:
        """The device's worker is gone."""
        if self._devices.get(device.name) is device:
            del self._devices[device.name]
