"""Tables for people, and those of services, the scheduler, stages and topics; `*_tables` have the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from rich.table import Table

from llmos.cli.services import Running
from llmos.cli.units import UNKNOWN
from llmos.schemas.results import Answer, Stages
from llmos.schemas.telemetry import SchedulerReport
from llmos.schemas.topics import TABLE


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table; texts are shown as they are."""
    found = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, overflow="fold")
    for row in rows:
        found.add_row(*(str(cell).replace("[", r"\[") for cell in row))
    return found


def addresses(kafka: str, redis: str) -> Table:
    """Where the log and the ledger are."""
    return table("addresses", ("what", "where"), [("kafka", kafka or UNKNOWN), ("redis", redis or UNKNOWN)])


def services(found: Iterable[Running]) -> Table:
    """The processes of this machine."""
    return table(
        "services",
        ("name", "pid", "alive", "ready"),
        [(running.name, running.pid, yes(running.alive), yes(running.ready)) for running in found],
    )


def yes(value: bool) -> str:
    return "yes" if value else "no"


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
