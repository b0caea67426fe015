"""`telemetry`: heartbeats of workers, deaths seen by nodes, what is done, live counts and device reports by the scheduler."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo, Lane, Task, Usage
from llmos.schemas.limits import Code, Count, Name, Offset, Seconds, Short
from llmos.schemas.states import ResidencyState, Tier


class Residency(Value, frozen=True, kw_only=True):
    """A model on a device, as its worker reports it."""

    model: str
    name: str
    state: ResidencyState
    resident_bytes: Count = 0
    load_seconds: Seconds = 0.0
    last_used_at: Seconds = 0.0
    active: Count = 0
    tier: Tier = "device"
    pinned: bool = False
    estimated_bytes: Count = 0
    """What it was expected to take before it was loaded; beside the measured `resident_bytes` it tells the error."""
    loaded_bytes: Count = 0
    """Of a model that is loading: bytes read so far."""
    weight_bytes: Count = 0
    """Of a model that is loading: bytes to be read."""


class HostLoad(Value, frozen=True, kw_only=True):
    """The machine of a worker, as it is watched."""

    processor_utilisation: float = 0.0
    """0 … 1, over all cores."""
    memory_bytes: Count = 0
    memory_available_bytes: Count = 0
    processor_pressure: float = 0.0
    """Share of the last 10 s in which some task waited for a core (PSI `some`), 0 … 1."""
    memory_pressure: float = 0.0
    io_pressure: float = 0.0


class DeviceLoad(Value, frozen=True, kw_only=True):
    """The device itself, as its driver tells it; of a share of the CPU, its cores."""

    utilisation: float = 0.0
    """0 … 1, by anybody, not by this worker alone."""
    own_utilisation: float = 0.0
    """0 … 1, by this worker."""
    memory_bytes: Count = 0
    memory_used_bytes: Count = 0
    throttled: Short = ""
    """Why it runs slower than it could (heat, power, somebody else's load); empty: it does not."""
    clock_fraction: float = 1.0
    """Present clock over its highest."""


class Served(Value, frozen=True, kw_only=True):
    """What a worker has served of one (model, kind) since it started."""

    model: str
    kind: str
    tasks: Count = 0
    busy_seconds: Seconds = 0.0
    """Device time shared out over the tasks that ran together."""
    tokens_in: Count = 0
    tokens_out: Count = 0
    prefill_tokens: Count = 0
    """Prompt tokens (or tokens of texts to embed) that were computed, those of unfinished tasks included."""
    prefill_seconds: Seconds = 0.0
    decode_steps: Count = 0
    decode_tokens: Count = 0
    """Sum of the batch over all decode steps; over `decode_steps` it is the mean batch."""
    decode_seconds: Seconds = 0.0


class Progress(Value, frozen=True, array_like=True, kw_only=False):
    """What an attempt has used so far: prompt tokens from when their prefill begins, tokens written, device time."""

    task: Task
    tokens_in: Count = 0
    tokens_out: Count = 0
    device_seconds: Seconds = 0.0


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
    step_seconds: Seconds = 0.0
    """How long the step that runs now has been running; 0: none runs."""
    step_limit_seconds: Seconds = 0.0
    """A step that runs for longer than this is hung, by what such steps took so far; 0: unknown."""
    started: Count = 0
    """Tasks that began to run, since start."""
    waited_seconds: Seconds = 0.0
    """Sum over them of the time between arrival and beginning, of loads not counted: the delay that windows steer by."""
    idle_seconds: Seconds = 0.0
    """Wall time without any work, since start."""
    host: HostLoad | None = None
    load: DeviceLoad | None = None
    progress: list[Progress] = []
    """Of tasks that have used something, the oldest 1,000: what is billed of them if they end without an outcome."""


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
    usage: Usage = Usage()
    """What the attempt had used."""


class TasksStopped(Message, frozen=True, kw_only=True, tag="tasks_stopped/1"):
    """A worker's last word on attempts that it stopped before their end (cancelled, expired, replaced): what each used."""

    device: Name
    incarnation: Offset
    used: list[Progress]


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
    confidence: float = 0.0
    """0 … 1: how far the measured rates are trusted over the prior."""
    prefill_tokens_per_second: float = 0.0
    decode_step_seconds: Seconds = 0.0
    """Of a batch of one."""
    decode_step_seconds_per_sequence: Seconds = 0.0
    """What each further sequence adds to a step."""


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
    draining: bool = False
    delay_seconds: Seconds = 0.0
    """Measured wait of tasks on the device before they run."""
    backlog_seconds: Seconds = 0.0
    """Predicted time until what is in flight is done."""
    host: HostLoad | None = None
    load: DeviceLoad | None = None


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
    arrival_rate: float = 0.0
    """λ, μ and ρ of all devices together, per second."""
    service_rate: float = 0.0
    utilisation: float = 0.0


class Candidate(Value, frozen=True, kw_only=True):
    """A device as a decision saw it: by which rule it was refused, or what was predicted of it."""

    device: Name
    rule: Code = ""
    """Empty: it might have taken the task."""
    need: float = 0.0
    have: float = 0.0
    wait_seconds: Seconds = 0.0
    load_seconds: Seconds = 0.0
    service_seconds: Seconds = 0.0


class Decided(Message, frozen=True, kw_only=True, tag="decided/1"):
    """One decision of the scheduler about one task, or about tasks alike that are held: candidates, choice, reasons."""

    at: Seconds
    term: Offset
    turn: Count
    """Counts the decisions of this term; those of one turn share it."""
    task: Task
    """The first, of those that are held."""
    tasks: Count = 1
    kind: Name
    model: str = ""
    device: str = ""
    """The choice; empty: held."""
    rule: Code = ""
    """Held by it."""
    need: float = 0.0
    have: float = 0.0
    predicted_start_at: Seconds = 0.0
    predicted_done_at: Seconds = 0.0
    candidates: list[Candidate] = []


class PolicyInput(Message, frozen=True, kw_only=True, tag="policy_input/1"):
    """What the policy saw in one turn, while its inputs are recorded: all of it, or what changed since the turn before;
    `llmos.pipelines.scheduling.replay` decides it again, bit by bit."""

    at: Seconds
    term: Offset
    turn: Count
    whole: bool = False
    body: bytes = b""
    """MessagePack, as `llmos.pipelines.scheduling.replay` writes it."""
    decision: bytes = b""
    """What was decided, in the same form."""


TELEMETRY = Codec.of(
    Heartbeat, TasksDone, TaskFailed, TasksStopped, WorkerDied, LiveCounts, SchedulerReport, Decided, PolicyInput
)
