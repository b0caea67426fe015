"""What one device was measured to do: λ and μ by model and kind, costs, and its speed just now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.fitting import CostMeter, delta_of, expected_seconds
from llmos.pipelines.scheduling.pooling import Work
from llmos.pipelines.scheduling.rates import ArrivalRate, ServiceRate, utilisation
from llmos.pipelines.scheduling.speed import Speed
from llmos.schemas.telemetry import ModelRate, Served

LEAST_CONFIDENCE = 0.2
"""From here on a mean says how fast the device is now."""


class _Of(NamedTuple):
    """The meters of one model and kind."""

    arrivals: ArrivalRate
    service: ServiceRate
    cost: CostMeter


class DeviceMeter:
    """Fed with arrivals and with the counters in heartbeats."""

    def __init__(self, half_life_seconds: float, speed_half_life_seconds: float, served: Iterable[Served], now: float):
        self._half_life = half_life_seconds
        self._arrivals = ArrivalRate(half_life_seconds, now)
        self._service = ServiceRate(half_life_seconds, now)
        self._of: dict[Work, _Of] = {}
        self._served: dict[Work, Served] = {(entry.model, entry.kind): entry for entry in served}
        self.speed = Speed(speed_half_life_seconds, half_life_seconds, now)
        self.tasks_served = sum(entry.tasks for entry in self._served.values())

    def arrived(self, work: Work, output_tokens: int, now: float) -> None:
        """A task is on its way to the device."""
        self._arrivals.arrived(1, now)
        of = self._meters(work, now)
        of.arrivals.arrived(1, now)
        if output_tokens:
            of.cost.asked(output_tokens, now)

    def heard(self, served: Iterable[Served], busy_seconds: float, now: float) -> None:
        """The counters of a heartbeat; `busy_seconds` since the one before."""
        tasks = 0
        expected = taken = 0.0
        for entry in served:
            work = (entry.model, entry.kind)
            before = self._served.get(work)
            if before == entry:
                continue
            delta = delta_of(before, entry)
            self._served[work] = entry
            of = self._meters(work, now)
            if of.cost.confidence >= LEAST_CONFIDENCE:
                should, did = expected_seconds(of.cost.cost(None), delta)
                expected, taken = expected + should, taken + did
            of.cost.served(delta, now)
            if delta.tasks > 0:
                of.service.served(delta.tasks, delta.busy_seconds, now)
                tasks += delta.tasks
        self.tasks_served += max(tasks, 0)
        self.speed.saw(expected, taken, now)
        if tasks > 0 or busy_seconds > 0:
            self._service.served(max(tasks, 0), max(busy_seconds, 0.0), now)

    def measured(self) -> dict[Work, Cost]:
        """Costs as measured here alone, at the device's mean speed."""
        return {work: of.cost.cost(None) for work, of in self._of.items() if of.cost.samples > 0.0}

    def costs(
        self,
        works: Iterable[Work],
        prior: Callable[[Work], Cost | None],
        now: float,
        others: Mapping[Work, Cost] | None = None,
    ) -> dict[Work, Cost]:
        """Costs as they are now: measured and prior ones, at the device's present speed.

        What was measured long ago comes nearer to what `others` measure meanwhile, where these are faster: a device that
        was once slow would else never be asked again, and never be found to be fast.
        """
        slowness = 1.0 / self.speed.value(now)
        found = {}
        for work in {*works, *self._of}:
            of, before = self._of.get(work), prior(work)
            cost = of.cost.cost(before) if of is not None and of.cost.samples > 0.0 else before
            if cost is not None:
                cost = cost.slower(slowness)
                if others and of is not None and work in others:
                    cost = cost.nearing(others[work], math.pow(0.5, of.cost.age(now) / self._half_life))
                found[work] = cost
        return found

    def interval_seconds(self, kinds_apart: frozenset[str], now: float) -> float:
        """Device seconds for each task done, of all kinds but those; 0: unknown."""
        busy = tasks = 0.0
        for (_, kind), of in self._of.items():
            mean = of.service.mean_service_seconds(now)
            if kind not in kinds_apart and mean is not None:
                count = of.service.tasks(now)
                busy, tasks = busy + mean * count, tasks + count
        return busy / tasks / self.speed.value(now) if tasks > 0.0 else 0.0

    def arrival_rate(self, now: float) -> float:
        """λ of all work, per second."""
        return self._arrivals.value(now)

    def service_rate(self, now: float) -> float:
        """μ of all work, per second of busy device."""
        return self._service.value(now)

    def utilisation(self, now: float) -> float:
        """ρ = λ/μ."""
        return utilisation(self.arrival_rate(now), self.service_rate(now))

    def rates(self, costs: dict[Work, Cost], now: float) -> list[ModelRate]:
        """By model and kind, for people."""
        return [_rate_of(work, of, costs.get(work), now) for work, of in sorted(self._of.items())]

    def _meters(self, work: Work, now: float) -> _Of:
        found = self._of.get(work)
        if found is None:
            found = self._of[work] = _Of(
                ArrivalRate(self._half_life, now), ServiceRate(self._half_life, now), CostMeter(self._half_life, now)
            )
        return found


def _rate_of(work: Work, of: _Of, cost: Cost | None, now: float) -> ModelRate:
    arrival, service = of.arrivals.value(now), of.service.value(now)
    prefill = cost.prefill_seconds if cost else 0.0
    return ModelRate(
        model=work[0],
        kind=work[1],
        arrival_rate=arrival,
        service_rate=service,
        utilisation=utilisation(arrival, service),
        mean_service_seconds=of.service.mean_service_seconds(now) or 0.0,
        samples=of.service.samples,
        confidence=cost.confidence if cost else 0.0,
        prefill_tokens_per_second=1.0 / prefill if prefill > 0.0 else 0.0,
        decode_step_seconds=cost.step_seconds if cost else 0.0,
        decode_step_seconds_per_sequence=cost.sequence_seconds if cost else 0.0,
    )
