"""`telemetry`: heartbeats of workers, deaths seen by nodes, what is done, live counts and device reports by the scheduler."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo, Lane, Task
from llmos.schemas.limits import Count, Name, Offset, Seconds, Short
from llmos.schemas.states import ResidencyState


class Residency(Value, frozen=True, kw_only=True):
    """A model on a device, as its worker reports it."""

    model: str
    name: str
    state: ResidencyState
    resident_bytes: Count = 0
    load_seconds: Seconds = 0.0
    last_used_at: Seconds = 0.0
    active: Count = 0


class Served(Value, frozen=True, kw_only=True):
    """What a worker has served of one (model, kind) since it started."""

    model: str
    kind: str
    tasks: Count = 0
    busy_seconds: Seconds = 0.0
    """Device time shared out over the tasks that ran together."""
    tokens_in: Count = 0
    tokens_out: Count = 0


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat/1"):
    """A worker lives: which tasks it holds or finished within the last minute, what is resident, what it served."""

    device: Name
    node: Name
    pid: Count
    incarnation: Offset
    sequence: Count
    at: Seconds
    queued: list[Task] = []
    running: list[Task] = []
    done: list[Task] = []
    slots: Count = 1
    """Tasks it can usefully run at once."""
    budget_bytes: Count = 0
    resident_bytes: Count = 0
    residents: list[Residency] = []
    served: list[Served] = []
    busy_seconds: Seconds = 0.0
    """Wall time with work in hand, since start."""
    steps: Count = 0
    draining: bool = False
    kinds: list[str] = []
    models: list[str] = []
    """Identities of the models that its node has."""


class TasksDone(Message, frozen=True, kw_only=True, tag="tasks_done/1"):
    """Tasks of jobs of several parts whose outcomes are on `partials`, with the seconds each was served. Of a job of one part
    the receipt says it."""

    device: Name
    incarnation: Offset
    tasks: list[Task]
    service_seconds: list[Seconds] = []


class TaskFailed(Message, frozen=True, kw_only=True, tag="task_failed/1"):
    """A failure that another attempt may mend: not an outcome."""

    device: Name
    incarnation: Offset
    task: Task
    error: ErrorInfo


class WorkerDied(Message, frozen=True, kw_only=True, tag="worker_died/1"):
    """A node saw the end of a worker's process."""

    device: Name
    node: Name
    pid: Count
    at: Seconds
    reason: Short = ""
    signal: Count = 0
    """What ended it; 0: it ended by itself. Only a signal speaks against the task it was running."""


class LiveCounts(Message, frozen=True, kw_only=True, tag="live_counts/1"):
    """Jobs that are live, by lane and by tenant: `[jobs, bytes]`; ingest admits by it when Redis is away."""

    at: Seconds
    term: Offset
    lanes: dict[Lane, tuple[Count, Count]]
    tenants: dict[str, tuple[Count, Count]]


class ModelRate(Value, frozen=True, kw_only=True):
    """λ and μ of a model and kind on a device, per second; ρ = λ/μ."""

    model: str
    kind: str
    arrival_rate: float
    service_rate: float
    utilisation: float
    mean_service_seconds: Seconds
    samples: Count


class DeviceReport(Value, frozen=True, kw_only=True):
    """A device as the scheduler sees it."""

    device: Name
    node: Name
    alive: bool
    arrival_rate: float
    service_rate: float
    utilisation: float
    window: Count
    in_flight: Count
    budget_bytes: Count
    resident_bytes: Count
    residents: list[Residency] = []
    rates: list[ModelRate] = []
    served: Count = 0


class SchedulerReport(Message, frozen=True, kw_only=True, tag="scheduler_report/1"):
    """The scheduler's view, every second: devices, what waits and why."""

    at: Seconds
    term: Offset
    policy: str
    live: Count
    waiting: dict[Lane, Count]
    dispatched: Count
    devices: list[DeviceReport] = []
    held: dict[str, Count] = {}
    """Held tasks by the rule that holds them."""


TELEMETRY = Codec.of(Heartbeat, TasksDone, TaskFailed, WorkerDied, LiveCounts, SchedulerReport)
