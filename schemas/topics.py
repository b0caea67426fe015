"""Every topic once: its name, key, partitions, retention, writers and readers; this table creates the topics."""

from __future__ import annotations

import re
from typing import Literal

from llmos.schemas.base import Value
from llmos.schemas.job import LANES, Lane
from llmos.schemas.limits import RECORD_BYTES, REQUEST_BYTES

_DAY = 86_400.0
_HOUR = 3_600.0

ONE = "one"
MANY = "N"


class Topic(Value, frozen=True, kw_only=True):
    """A topic's place in the pipeline. `name` may hold one `<device>`, for a family of topics."""

    name: str
    key: str
    partitions: Literal["one", "N"]
    retention_seconds: float | None
    """None: compacted, kept for ever."""
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    carries: str
    append_time: bool = False
    """Records are stamped by the broker (LogAppendTime)."""
    record_bytes: int = RECORD_BYTES


REQUESTS: dict[Lane, str] = {
    "interactive": "requests.interactive",
    "standard": "requests",
    "batch": "requests.batch",
}
"""The requests topic of each lane."""

ADMITTED = "admitted"
SEALED = "sealed"
STREAM = "stream"
PARTIALS = "partials"
RESULTS = "results"
USAGE = "usage"
DEAD = "dead"
CONTROL = "control"
TELEMETRY = "telemetry"
CATALOG = "catalog"
TENANTS = "tenants"
EPOCHS = "epochs"

_LANES: dict[str, Lane] = {name: lane for lane, name in REQUESTS.items()}
_WORK = re.compile(r"work\.([A-Za-z0-9._-]+)")

OPERATOR_REPLIES = "reply.operator."
"""Topics of replies to operators begin so; no tenant has this name, so that none of these is a tenant's own."""


def work_topic(device: str) -> str:
    """The topic of a device's tasks."""
    return f"work.{device}"


def device_of(topic: str) -> str | None:
    """The device whose tasks are on `topic`, None for another topic."""
    match = _WORK.fullmatch(topic)
    return match.group(1) if match else None


def lane_of(topic: str) -> Lane:
    """The lane whose requests are on `topic`."""
    return _LANES[topic]


TABLE: tuple[Topic, ...] = (
    *(
        Topic(
            name=REQUESTS[lane], key="free", partitions="N", retention_seconds=7 * _DAY, writers=("client",),
            readers=("ingest",), carries="Request", append_time=True,
            record_bytes=REQUEST_BYTES,
        )
        for lane in LANES
    ),
    Topic(name=ADMITTED, key="job id", partitions="N", retention_seconds=_DAY, writers=("ingest",), readers=("verify",), carries="Admitted, Refusal"),
    Topic(name=SEALED, key="job id", partitions="N", retention_seconds=2 * _DAY, writers=("verify",), readers=("scheduler",), carries="Job, Refusal", append_time=True),
    Topic(name="work.<device>", key="task id", partitions="one", retention_seconds=_HOUR, writers=("scheduler", "worker"), readers=("worker",), carries="Work, Claim"),
    Topic(name=STREAM, key="job id", partitions="N", retention_seconds=_HOUR, writers=("worker", "scheduler"), readers=("client",), carries="Tokens, State"),
    Topic(name=PARTIALS, key="job id", partitions="N", retention_seconds=7 * _DAY, writers=("worker", "scheduler"), readers=("aggregator",), carries="Outcome, Verdict, LowWatermark"),
    Topic(name=RESULTS, key="job id", partitions="N", retention_seconds=7 * _DAY, writers=("aggregator",), readers=("client",), carries="Answer"),
    Topic(name=USAGE, key="job id", partitions="N", retention_seconds=90 * _DAY, writers=("aggregator",), readers=("scheduler", "aggregator", "billing"), carries="Receipt", append_time=True),
    Topic(name=DEAD, key="origin", partitions="one", retention_seconds=30 * _DAY, writers=("ingest", "verify", "scheduler", "worker", "aggregator", "cli"), readers=("operator", "client"), carries="DeadLetter, DeadReplayed"),
    Topic(name=CONTROL, key="target", partitions="one", retention_seconds=_DAY, writers=("client", "cli", "scheduler"), readers=("scheduler", "worker", "node"), carries="Cancel, CancelTask, Query, Drain, ModelCommand, ModelOrder, Fence", append_time=True),
    Topic(name=TELEMETRY, key="source", partitions="one", retention_seconds=_HOUR, writers=("worker", "node", "scheduler"), readers=("scheduler", "ingest", "cli"), carries="Heartbeat, TasksDone, TaskFailed, TasksStopped, WorkerDied, LiveCounts, SchedulerReport, Decided, PolicyInput"),
    Topic(name=CATALOG, key="identity, alias, node, pin", partitions="one", retention_seconds=None, writers=("worker", "scheduler"), readers=("verify", "scheduler", "worker"), carries="Model, Alias, NodeModels, Pin"),
    Topic(name=TENANTS, key="tenant", partitions="one", retention_seconds=None, writers=("cli",), readers=("ingest", "verify", "scheduler"), carries="Tenant"),
    Topic(name=EPOCHS, key="name", partitions="one", retention_seconds=None, writers=("scheduler", "aggregator"), readers=("scheduler", "aggregator"), carries="Term, Deaths, Layout"),
)  # fmt: skip


_NAMES: frozenset[str] = frozenset(topic.name for topic in TABLE)


def of_others(topic: str) -> bool:
    """Whether a topic is none of the table: a `reply_to`, which its owner makes and deletes as he likes."""
    return topic not in _NAMES and device_of(topic) is None


def in_transactions(topic: str) -> bool:
    """Whether what we write to `topic` are transactions: `results`, `usage`, and copies of answers to topics of others.

    Those are read as far as every transaction has ended, committed records only. All other topics are read as they lie:
    there a transaction is a stranger's, who may keep it open, and nobody waits for its end.
    """
    return topic in (RESULTS, USAGE) or of_others(topic)


def topic_named(name: str) -> Topic:
    """The table's row for a topic, families included. KeyError where there is none."""
    wanted = "work.<device>" if device_of(name) else name
    for topic in TABLE:
        if topic.name == wanted:
            return topic
    raise KeyError(name)
