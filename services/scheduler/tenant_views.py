"""What a tenant is shown: its own jobs and counts, the models that it may use, and devices without the names of others.

How busy a device is, and so how long work waits, is the sum over all tenants: whoever shares a machine sees that it is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from llmos.pipelines.admission.model_rights import may_use_model
from llmos.pipelines.scheduling.decision import Held
from llmos.schemas.catalog import Alias, Model, NodeModels, Pin, Tenant
from llmos.schemas.job import LANES, Lane
from llmos.schemas.telemetry import DeviceReport, SchedulerReport
from llmos.services.scheduler.jobs import LiveJob


def usable_rows(rows: Mapping[str, Any], tenant: Tenant) -> Mapping[str, Any]:
    """The rows of `catalog` that are about models which the tenant may use, by name, alias or identity."""
    if not tenant.models:
        return rows
    identities = usable_identities(rows.values(), tenant)
    found = ((key, _usable_row(row, identities, tenant)) for key, row in rows.items())
    return {key: row for key, row in found if row is not None}


def usable_identities(rows: Iterable[Any], tenant: Tenant) -> frozenset[str]:
    """The identities of those models."""
    names: dict[str, set[str]] = {}
    for row in rows:
        if isinstance(row, Model | Alias):
            names.setdefault(row.identity, {row.identity}).add(row.name)
    return frozenset(identity for identity, called in names.items() if may_use_model(tenant, called))


def own_report(
    report: SchedulerReport, own: Sequence[LiveJob], held: Sequence[Held], rows: Mapping[str, Any], tenant: Tenant
) -> SchedulerReport:
    """The report as a tenant may see it; `own` are its live submissions."""
    waiting: Counter[Lane] = Counter()
    dispatched = 0
    for job in own:
        waiting[job.head.lane] += sum(task.queued for task in job.tasks)
        dispatched += sum(task.state == "dispatched" for task in job.tasks)
    by_rule: Counter[str] = Counter()
    for entry in held:
        if entry.group.tenant == tenant.name:
            by_rule[entry.why.rule] += entry.tasks
    return msgspec.structs.replace(
        report,
        live=len(own),
        waiting={lane: waiting[lane] for lane in LANES},
        dispatched=dispatched,
        held=dict(by_rule),
        devices=usable_devices(report.devices, rows, tenant),
    )


def usable_devices(devices: Iterable[DeviceReport], rows: Mapping[str, Any], tenant: Tenant) -> list[DeviceReport]:
    """The devices, with those models only that the tenant may use."""
    if not tenant.models:
        return list(devices)
    identities = usable_identities(rows.values(), tenant) | {""}
    return [
        msgspec.structs.replace(
            device,
            residents=[resident for resident in device.residents if resident.model in identities],
            rates=[rate for rate in device.rates if rate.model in identities],
        )
        for device in devices
    ]


def _usable_row(row: Any, identities: frozenset[str], tenant: Tenant) -> Any | None:
    if isinstance(row, NodeModels):
        return msgspec.structs.replace(
            row,
            models=[identity for identity in row.models if identity in identities],
            quarantined=[entry for entry in row.quarantined if may_use_model(tenant, [entry.name])],
        )
    if isinstance(row, Model | Alias | Pin):
        return row if row.identity in identities else None
    return row
