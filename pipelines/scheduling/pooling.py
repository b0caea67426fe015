"""Priors: what a model costs a device that has not run it yet, from the devices that have, scaled by how fast each is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llmos.pipelines.scheduling.costs import Cost

Work = tuple[str, str]
"""Model and kind."""


class Pool(NamedTuple):
    """What all devices measured together."""

    costs: Mapping[Work, Cost]
    """Means over devices, by confidence."""
    pace: Mapping[str, float]
    """By device: how many times as long as the mean it takes for what others run too."""
    others: Mapping[str, Mapping[Work, Cost]] = {}
    """By device: the mean over all others, of what it has run itself and somebody else too."""

    def prior(self, device: str, work: Work) -> Cost | None:
        """What `work` should cost `device`; None where nobody has run it."""
        cost = self.costs.get(work)
        return None if cost is None else cost.slower(self.pace.get(device, 1.0))


def pooled(measured: Mapping[str, Mapping[Work, Cost]]) -> Pool:
    """Pools what devices measured (by device, then by work), each by its confidence."""
    sums: dict[Work, list[tuple[Cost, float]]] = {}
    for costs in measured.values():
        for work, cost in costs.items():
            if cost.confidence > 0.0:
                sums.setdefault(work, []).append((cost, cost.confidence))
    means = {work: _mean(parts) for work, parts in sums.items()}
    paces = {device: _pace(costs, means, sums) for device, costs in measured.items()}
    weights = {work: sum(weight for _, weight in parts) for work, parts in sums.items()}
    others = {
        device: {
            work: _without(means[work], weights[work], cost)
            for work, cost in costs.items()
            if len(sums.get(work, ())) > 1 and cost.confidence > 0.0
        }
        for device, costs in measured.items()
    }
    return Pool(means, paces, others)


def _without(mean: Cost, weight: float, own: Cost) -> Cost:
    """The mean of all but one; of a field that only that one knows, its own value."""
    rest = weight - own.confidence

    def field(of_all: float, of_one: float) -> float:
        found = (of_all * weight - of_one * own.confidence) / rest if rest > 1e-9 else of_all
        return found if found > 0.0 else of_all

    return Cost(
        field(mean.task_seconds, own.task_seconds),
        field(mean.prefill_seconds, own.prefill_seconds),
        field(mean.step_seconds, own.step_seconds),
        field(mean.sequence_seconds, own.sequence_seconds),
        field(mean.output_fraction, own.output_fraction),
    )


def _mean(parts: list[tuple[Cost, float]]) -> Cost:
    return Cost(
        _field([(cost.task_seconds, weight) for cost, weight in parts]),
        _field([(cost.prefill_seconds, weight) for cost, weight in parts]),
        _field([(cost.step_seconds, weight) for cost, weight in parts]),
        _field([(cost.sequence_seconds, weight) for cost, weight in parts if cost.step_seconds > 0.0]),
        _field([(cost.output_fraction, weight) for cost, weight in parts]),
        0.0,
    )


def _field(values: list[tuple[float, float]]) -> float:
    """The weighted mean of those that are known."""
    known = [(value, weight) for value, weight in values if value > 0.0]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total > 0.0 else 0.0


def _pace(
    costs: Mapping[Work, Cost], means: Mapping[Work, Cost], sums: Mapping[Work, list[tuple[Cost, float]]]
) -> float:
    ratios = []
    for work, cost in costs.items():
        if len(sums.get(work, ())) < 2:
            continue
        for own, mean in ((cost.step_seconds, means[work].step_seconds), (cost.task_seconds, means[work].task_seconds)):
            if own > 0.0 and mean > 0.0:
                ratios.append((own / mean, cost.confidence))
                break
    return _field(ratios) or 1.0
