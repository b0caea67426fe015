"""Views of the derived state: the snapshot for the decision, reports and answers to queries for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from llmos.infra.settings.tree import Scheduler
from llmos.pipelines.scheduling.decision import Held
from llmos.pipelines.scheduling.explain import Explanation
from llmos.pipelines.scheduling.rates import utilisation
from llmos.pipelines.scheduling.snapshot import Carried, Rules, Snapshot, Waiting
from llmos.schemas.catalog import Alias, Model, NodeModels, Pin
from llmos.schemas.job import LANES, Lane
from llmos.schemas.telemetry import LiveCounts, SchedulerReport
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.fleet import Device
from llmos.services.scheduler.jobs import LiveJob, LiveTask

SHOWN_JOBS = 100
NO_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType({})
KV_TOKENS = 256
"""A model needs room for the keys and values of so many tokens at least, beside its weights."""


def snapshot_of(
    desk: Desk, models: Mapping[str, Any], carried: Carried, now: float, weights: Mapping[str, float] = NO_WEIGHTS
) -> Snapshot:
    """What the decision sees. The lists of waiting tasks are the desk's own: they must not change while it decides."""
    waiting = []
    for group, keys in desk.jobs.waiting():
        model = models.get(group.model) if group.model else None
        if isinstance(model, Model):
            waiting.append(Waiting(group, keys, model.weight_bytes, len(keys), need_bytes_of(model)))
        else:
            waiting.append(Waiting(group, keys, 0, len(keys)))
    rules = rules_of(desk.settings)
    return Snapshot(waiting, desk.fleet.views(now), rules._replace(weights=weights) if weights else rules, carried)


def need_bytes_of(model: Model) -> int:
    """Memory that a device must have for the model: weights, and keys and values of a short sequence. The worker, which
    knows its engine, has the last word."""
    return model.weight_bytes + model.kv_bytes_per_token * min(model.context_tokens, KV_TOKENS)


@lru_cache(maxsize=8)
def rules_of(settings: Scheduler) -> Rules:
    """The settings that steer decisions."""
    return Rules(
        utilisation_limit=settings.utilisation_limit,
        policy=settings.policy,
        ageing_seconds=settings.ageing_seconds,
        sooner_margin=settings.sooner_margin,
        switch_loads=settings.switch_loads,
        memory_pressure_limit=settings.memory_pressure_limit,
        record=settings.record != "none",
    )


def live_counts(desk: Desk, now: float) -> LiveCounts:
    """What is live, by lane and by tenant."""
    lanes: dict[Lane, list[int]] = {lane: [0, 0] for lane in LANES}
    tenants: dict[str, list[int]] = {}
    for job in desk.jobs.live.values():
        for count in (lanes[job.head.lane], tenants.setdefault(job.head.tenant, [0, 0])):
            count[0] += 1
            count[1] += job.head.size
    return LiveCounts(
        at=now,
        term=desk.term,
        lanes={lane: (jobs, size) for lane, (jobs, size) in lanes.items()},
        tenants={name: (jobs, size) for name, (jobs, size) in tenants.items()},
    )


def scheduler_report(desk: Desk, held: Sequence[Held], now: float) -> SchedulerReport:
    """Devices, what waits and why; λ, μ and ρ of all of them together."""
    by_rule: dict[str, int] = {}
    for entry in held:
        by_rule[entry.why.rule] = by_rule.get(entry.why.rule, 0) + entry.tasks
    devices = [device.report(now) for device in desk.fleet]
    arrival = sum(device.arrival_rate for device in devices)
    service = sum(device.service_rate for device in devices)
    return SchedulerReport(
        at=now,
        term=desk.term,
        policy=desk.settings.policy,
        live=len(desk.jobs.live),
        waiting={lane: desk.jobs.waiting_by_lane[lane] for lane in LANES},
        dispatched=sum(len(device.in_flight) for device in desk.fleet),
        devices=devices,
        held=by_rule,
        arrival_rate=arrival,
        service_rate=service,
        utilisation=utilisation(arrival, service),
    )


def model_view(rows: Mapping[str, Any], fleet: Iterable[Device] = ()) -> dict[str, Any]:
    """These rows of the catalog, and where their models are resident."""
    known = {row.identity for row in rows.values() if isinstance(row, Model)}
    resident: dict[str, list[str]] = {}
    for device in fleet:
        for entry in device.last.residents:
            if entry.state == "resident" and entry.model in known:
                resident.setdefault(entry.model, []).append(device.name)
    return {
        "models": [row for row in rows.values() if isinstance(row, Model)],
        "aliases": {row.name: row.identity for row in rows.values() if isinstance(row, Alias)},
        "pins": [row for row in rows.values() if isinstance(row, Pin)],
        "nodes": [row for row in rows.values() if isinstance(row, NodeModels)],
        "resident": resident,
    }


Explain = Callable[[LiveTask], Explanation | None]


def jobs_view(jobs: Sequence[LiveJob], explain: Explain, *, with_parts: bool = True) -> list[dict[str, Any]]:
    """Live submissions; `with_parts`: with what each part waits for, else with the number of parts by state and what the
    first that waits waits for."""
    return [_job_view(job, explain, with_parts) for job in jobs[:SHOWN_JOBS]]


def _job_view(job: LiveJob, explain: Explain, with_parts: bool) -> dict[str, Any]:
    states = Counter(task.state for task in job.tasks)
    state = job.verdict or ("running" if "dispatched" in states else "waiting" if "waiting" in states else "done")
    head = job.head
    first = next((task for task in job.tasks if task.queued), None)
    return {
        "job_id": head.job_id.hex(),
        "partition": job.partition,
        "s": job.s,
        "state": state,
        "origin": [head.origin.topic, head.origin.partition, head.origin.offset],
        "tenant": head.tenant,
        "lane": head.lane,
        "priority": head.priority,
        "kind": head.kind,
        "model_name": head.model_name,
        "deadline": job.deadline,
        "waits": _explained(first, explain),
        "parts": [_part_view(task, explain) for task in job.tasks] if with_parts else [],
        "parts_by_state": dict(states),
    }


def _part_view(task: LiveTask, explain: Explain) -> dict[str, Any]:
    view = {
        "part": task.part.index,
        "state": task.state,
        "device": task.device,
        "epoch": task.epoch,
        "attempts": task.attempts,
        "predicted_done_at": task.done_at,
    }
    return view | _explained(task, explain)


def _explained(task: LiveTask | None, explain: Explain) -> dict[str, Any]:
    """What a task waits for; empty rule and zeros of one that does not."""
    why = explain(task) if task is not None and task.queued else None
    view: dict[str, Any] = {
        "position": why.position if why else 0,
        "rule": why.rule if why else "",
        "need": why.need if why else 0.0,
        "have": why.have if why else 0.0,
        "predicted_start_at": why.predicted_start_at if why else 0.0,
    }
    if why is not None:
        view |= {"device": why.device, "predicted_done_at": why.predicted_done_at}
    return view
