"""Views of the derived state: the snapshot for the decision, reports and answers to queries for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llmos.pipelines.scheduling.decision import Held
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Snapshot, Waiting
from llmos.schemas.catalog import Alias, Model
from llmos.schemas.job import LANES, Lane
from llmos.schemas.telemetry import LiveCounts, SchedulerReport
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.jobs import LiveJob

SHOWN_JOBS = 100


def snapshot_of(desk: Desk, models: Mapping[str, Any], turn: int, now: float) -> Snapshot:
    """What the decision sees; of each group as many tasks as there is room for, and one more."""
    devices = [device.view(now) for device in desk.fleet]
    room = sum(_room(device) for device in devices)
    waiting = []
    for group, keys in desk.jobs.waiting():
        model = models.get(group.model)
        weight = model.weight_bytes if isinstance(model, Model) else 0
        waiting.append(Waiting(group, keys[: room + 1], weight, len(keys)))
    settings = desk.settings
    rules = Rules(settings.utilisation_limit, settings.policy == "round-robin")
    return Snapshot(waiting, devices, rules, turn)


def _room(device: DeviceView) -> int:
    return max(sum(device.window.values()) - device.total_in_flight, 0)


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
    """Devices, what waits and why."""
    by_rule: dict[str, int] = {}
    for entry in held:
        by_rule[entry.why.rule] = by_rule.get(entry.why.rule, 0) + entry.tasks
    return SchedulerReport(
        at=now,
        term=desk.term,
        policy=desk.settings.policy,
        live=len(desk.jobs.live),
        waiting={lane: desk.jobs.waiting_by_lane[lane] for lane in LANES},
        dispatched=sum(len(device.in_flight) for device in desk.fleet),
        devices=[device.report(now) for device in desk.fleet],
        held=by_rule,
    )


def model_view(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The catalog."""
    return {
        "models": [row for row in rows.values() if isinstance(row, Model)],
        "aliases": {row.name: row.identity for row in rows.values() if isinstance(row, Alias)},
    }


def jobs_view(jobs: Sequence[LiveJob], held: Sequence[Held], *, with_parts: bool = True) -> list[dict[str, Any]]:
    """Live submissions; `with_parts`: with what each part waits for, else with the number of parts by state."""
    reasons = {entry.group: entry.why for entry in held}
    return [_job_view(job, reasons, with_parts) for job in jobs[:SHOWN_JOBS]]


def _job_view(job: LiveJob, reasons: Mapping[Any, Any], with_parts: bool) -> dict[str, Any]:
    parts = []
    for task in job.tasks if with_parts else ():
        why = reasons.get(task.group) if task.queued else None
        parts.append(
            {
                "part": task.part.index,
                "state": task.state,
                "device": task.device,
                "epoch": task.epoch,
                "attempts": task.attempts,
                "predicted_done_at": task.done_at,
                "rule": why.rule if why else "",
                "need": why.need if why else 0.0,
                "have": why.have if why else 0.0,
            }
        )
    states = Counter(task.state for task in job.tasks)
    state = job.verdict or ("running" if "dispatched" in states else "waiting" if "waiting" in states else "done")
    head = job.head
    return {
        "job_id": head.job_id.hex(),
        "partition": job.partition,
        "s": job.s,
        "state": state,
        "origin": [head.origin.topic, head.origin.partition, head.origin.offset],
        "tenant": head.tenant,
        "lane": head.lane,
        "kind": head.kind,
        "model_name": head.model_name,
        "deadline": job.deadline,
        "parts": parts,
        "parts_by_state": dict(states),
    }
