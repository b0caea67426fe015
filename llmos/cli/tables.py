"""Tables for people: of devices, models, jobs, stages, settings; from typed values to rich, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rich.table import Table

from llmos.cli.services import Running
from llmos.schemas.catalog import Model
from llmos.schemas.results import Answer, Stages
from llmos.schemas.telemetry import DeviceReport, ModelRate, SchedulerReport
from llmos.schemas.topics import TABLE

UNKNOWN = "–"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table; texts are shown as they are."""
    found = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, overflow="fold")
    for row in rows:
        found.add_row(*(str(cell).replace("[", r"\[") for cell in row))
    return found


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def addresses(kafka: str, redis: str) -> Table:
    """Where the log and the ledger are."""
    return table("addresses", ("what", "where"), [("kafka", kafka or UNKNOWN), ("redis", redis or UNKNOWN)])


def services(found: Iterable[Running]) -> Table:
    """The processes of this machine."""
    return table(
        "services",
        ("name", "pid", "alive", "ready"),
        [(running.name, running.pid, _yes(running.alive), _yes(running.ready)) for running in found],
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _known(value: float, known: object, digits: int) -> str:
    return f"{value:.{digits}f}" if known else UNKNOWN


def _timed(device: DeviceReport) -> bool:
    """Whether its μ says something: a device that only had kinds without a model was given no time to measure."""
    return bool(device.service_rate) and (not device.rates or any(rate.model for rate in device.rates))


def devices(found: Iterable[DeviceReport]) -> Table:
    """Devices with λ, μ and ρ."""
    return table(
        "devices",
        ("device", "node", "alive", "λ /s", "μ /s", "ρ", "in flight", "served", "resident", "models"),
        [
            (
                device.device,
                device.node,
                _yes(device.alive),
                f"{device.arrival_rate:.2f}",
                _known(device.service_rate, _timed(device), 2),
                _known(device.utilisation, _timed(device), 3),
                f"{device.in_flight}/{device.window}",
                device.served,
                f"{size(device.resident_bytes)}/{size(device.budget_bytes)}",
                ", ".join(f"{r.name} ({r.state})" for r in device.residents),
            )
            for device in found
        ],
    )


def rates(found: Iterable[DeviceReport]) -> Table:
    """λ, μ and ρ of each model and kind on each device; kinds without a model take no device time and have no μ."""

    def timed(rate: ModelRate) -> bool:
        return bool(rate.model and rate.samples and rate.service_rate)

    return table(
        "rates",
        ("device", "model", "kind", "λ /s", "μ /s", "ρ", "mean service s", "samples"),
        [
            (
                device.device,
                rate.model[:12],
                rate.kind,
                f"{rate.arrival_rate:.2f}",
                _known(rate.service_rate, timed(rate), 2),
                _known(rate.utilisation, timed(rate), 3),
                _known(rate.mean_service_seconds, timed(rate), 4),
                rate.samples,
            )
            for device in found
            for rate in device.rates
        ],
    )


def status(report: SchedulerReport) -> Table:
    """What waits and what is under way."""
    rows: list[tuple[str, object]] = [
        ("term", report.term),
        ("policy", report.policy),
        ("live jobs", report.live),
        ("tasks in flight now", report.dispatched),
    ]
    rows += [(f"waiting, {lane}", count) for lane, count in report.waiting.items()]
    rows += [(f"held by {rule}", count) for rule, count in sorted(report.held.items())]
    return table("scheduler", ("what", "value"), rows)


def models(found: Iterable[Model], aliases: Mapping[str, str]) -> Table:
    """The catalog."""
    names: dict[str, list[str]] = {}
    for alias, identity in sorted(aliases.items()):
        names.setdefault(identity, []).append(alias)
    return table(
        "models",
        ("name", "identity", "kinds", "architecture", "parameters", "weights", "context", "aliases", "state"),
        [
            (
                model.name,
                model.identity[:12],
                ", ".join(model.kinds),
                model.architecture,
                f"{model.parameters:,}",
                size(model.weight_bytes),
                model.context_tokens,
                ", ".join(names.get(model.identity, [])),
                "usable" if model.damaged is None else model.damaged.message,
            )
            for model in sorted(found, key=lambda model: model.name)
        ],
    )


def submissions(found: Iterable[Mapping[str, Any]], title: str) -> Table:
    """Submissions as the scheduler knows them."""
    return table(
        title,
        ("job", "s", "state", "status", "code", "tenant", "lane", "kind", "model"),
        [
            (
                job.get("job_id", ""),
                f"{job['partition']}:{job['s']}",
                job["state"],
                job.get("status") or "",
                job.get("code") or "",
                job["tenant"],
                job["lane"],
                job["kind"],
                job["model_name"],
            )
            for job in found
        ],
    )


def parts(submission: Mapping[str, Any]) -> Table:
    """The parts of one submission, and what holds them."""
    return table(
        f"parts of {submission['partition']}:{submission['s']}",
        ("part", "state", "device", "epoch", "attempts", "held by", "need", "have"),
        [
            tuple(
                part[name] if part[name] is not None else ""
                for name in ("part", "state", "device", "epoch", "attempts", "rule", "need", "have")
            )
            for part in submission["parts"]
        ],
    )


def stages(answer: Answer) -> Table:
    """When an answered job passed each stage: seconds since its submission, and since the stage before."""
    rows: list[tuple[str, str, str]] = []
    first = before = 0.0
    for name, at in passed(answer.stages):
        first = first or at
        rows.append((name, f"{at - first:.4f}", f"{at - (before or at):+.4f}"))
        before = at
    return table("stages", ("stage", "s since submission", "s since the one before"), rows)


def passed(found: Stages) -> list[tuple[str, float]]:
    """The stages that a job passed, in order, with the time of each (Unix seconds)."""
    times = msgspec.structs.asdict(found)
    return [(name.removesuffix("_at"), float(at)) for name, at in times.items() if at]


def topics() -> Table:
    """The table that creates the topics."""
    return table(
        "topics",
        ("topic", "key", "partitions", "kept", "writers", "readers", "carries"),
        [
            (
                topic.name,
                topic.key,
                topic.partitions,
                "compacted" if topic.retention_seconds is None else f"{topic.retention_seconds / 3600:g} hours",
                ", ".join(topic.writers),
                ", ".join(topic.readers),
                topic.carries,
            )
            for topic in TABLE
        ],
    )
