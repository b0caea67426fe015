"""Every Prometheus metric once. Names and labels are stable: dashboards, alerts and the docs stand on them.

Base units: seconds, bytes, per second. Labels take few values: never a job, a tenant or a request.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

# They would be a second series per counter, read by no panel of ours.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
"""Ours alone: nothing that a library registers appears by accident."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

RECORDS = Counter(
    "llmos_records_total",
    "Records that a service settled, by what became of them",
    ["service", "outcome"],
    registry=REGISTRY,
)
RECORD_SECONDS = Histogram(
    "llmos_record_seconds", "From reading a record to its settlement", ["service"], buckets=SECONDS, registry=REGISTRY
)
ANSWERS = Counter("llmos_answers_total", "Answers written, by status", ["status"], registry=REGISTRY)
ANSWER_SECONDS = Histogram(
    "llmos_answer_seconds", "From admission to the answer", ["lane"], buckets=SECONDS, registry=REGISTRY
)
FIRST_TOKEN_SECONDS = Histogram(
    "llmos_first_token_seconds",
    "From admission to the first token (TTFT)",
    ["lane"],
    buckets=SECONDS,
    registry=REGISTRY,
)
DEAD_LETTERS = Counter("llmos_dead_letters_total", "Records no stage could use", ["stage", "code"], registry=REGISTRY)
REFUSALS = Counter("llmos_refusals_total", "Submissions refused, by the reason", ["stage", "code"], registry=REGISTRY)
CONTROL_REFUSED = Counter(
    "llmos_control_refused_total",
    "Messages on `control` that were not carried out, since they are not under the right key, old, or copies",
    ["service", "why"],
    registry=REGISTRY,
)
TENANT_ROWS_REFUSED = Counter(
    "llmos_tenant_rows_refused_total",
    "Rows of `tenants` that are not gone by: not under the system's key, or old ones that were put there again",
    ["why"],
    registry=REGISTRY,
)
ENVELOPES_REJECTED = Counter(
    "llmos_envelopes_rejected_total",
    "Envelopes that did not open in a service, by what should have been inside (request, part)",
    ["channel"],
    registry=REGISTRY,
)
KEYRINGS_REFUSED = Counter(
    "llmos_keyrings_refused_total",
    "Times a service kept the keys it had, since the keyring's file cannot be used (unusable) or is another's (another)",
    ["why"],
    registry=REGISTRY,
)
WITHOUT_TENANT_KEY = Counter(
    "llmos_sealed_without_tenant_key_total",
    "Jobs sealed for the workers' pool alone, since the keyring has no key of their tenant",
    registry=REGISTRY,
)

IN_FLIGHT = Gauge("llmos_in_flight", "Jobs that hold credits", ["lane"], registry=REGISTRY)
IN_FLIGHT_BYTES = Gauge("llmos_in_flight_bytes", "Payload bytes that hold credits", ["lane"], registry=REGISTRY)
WAITING = Gauge("llmos_waiting", "Tasks that wait for a device", ["lane"], registry=REGISTRY)
LEDGER_AWAY = Gauge("llmos_ledger_away", "1 while the ledger cannot be reached", registry=REGISTRY)
LEDGER_HOLDS = Gauge("llmos_ledger_holds", "Submissions that the ledger holds credits for", ["lane"], registry=REGISTRY)
LEDGER_LEASES = Gauge(
    "llmos_ledger_leases", "Tasks that the ledger has leased to a device", ["device"], registry=REGISTRY
)
LEDGER_WINDOW = Gauge(
    "llmos_ledger_window",
    "Tasks a device may have in flight, as the ledger knows it",
    ["device", "kind"],
    registry=REGISTRY,
)
LEDGER_REFUSED = Counter(
    "llmos_ledger_refused_leases_total", "Leases refused since a later scheduler has the task", registry=REGISTRY
)
LEDGER_UNKNOWN = Counter(
    "llmos_ledger_unknown_releases_total",
    "Leases that were not there when they were to end: expected after the ledger was emptied, else an error",
    registry=REGISTRY,
)
LEDGER_REBUILT = Counter(
    "llmos_ledger_rebuilt_total", "Times the ledger was found empty or damaged, and filled again", registry=REGISTRY
)

UTILISATION = Gauge("llmos_utilisation", "ρ = λ/μ of a device", ["device"], registry=REGISTRY)
ARRIVAL_RATE = Gauge("llmos_arrival_rate", "λ of a device, per second", ["device"], registry=REGISTRY)
SERVICE_RATE = Gauge("llmos_service_rate", "μ of a device, per second", ["device"], registry=REGISTRY)
RESIDENT_BYTES = Gauge("llmos_resident_bytes", "Bytes of resident models", ["device"], registry=REGISTRY)
LOADS = Counter(
    "llmos_model_loads_total", "Models loaded, or not, by the reason's code", ["device", "outcome"], registry=REGISTRY
)
LOAD_SECONDS = Histogram(
    "llmos_model_load_seconds",
    "From the beginning of a load to its end",
    ["device"],
    buckets=SECONDS,
    registry=REGISTRY,
)
LOAD_ESTIMATE_ERROR = Gauge(
    "llmos_model_load_estimate_error_ratio",
    "Of the last model that was loaded: (bytes estimated - bytes measured) / bytes measured",
    ["device"],
    registry=REGISTRY,
)
MODEL_WAITS = Counter(
    "llmos_model_waits_total",
    "Tasks that began to wait for a model, by the rule",
    ["device", "rule"],
    registry=REGISTRY,
)
TOKENS = Counter("llmos_tokens_total", "Tokens read and written by models", ["device", "direction"], registry=REGISTRY)

BACKLOG_RECORDS = Gauge("llmos_backlog_records", "Records not read yet", ["topic", "partition"], registry=REGISTRY)
BACKLOG_RETENTION = Gauge(
    "llmos_backlog_retention_fraction",
    "Age of the oldest record not read yet, as a fraction of its topic's retention: at 1 records are lost",
    ["topic", "partition"],
    registry=REGISTRY,
)

LOOP_PROGRESS_AGE = Gauge(
    "llmos_loop_progress_age_seconds", "Since a loop of this service last took a turn", ["loop"], registry=REGISTRY
)
READY = Gauge("llmos_ready", "1 while the service takes work", registry=REGISTRY)
EVENTS_LOST = Gauge("llmos_events_lost", "Log events left out, since the start", registry=REGISTRY)


@lru_cache(maxsize=4096)
def counter(metric: Counter, *labels: str) -> Counter:
    """A labelled counter, looked up once: for what counts every record."""
    return metric.labels(*labels)


@lru_cache(maxsize=4096)
def histogram(metric: Histogram, *labels: str) -> Histogram:
    """A labelled histogram, looked up once."""
    return metric.labels(*labels)


def render() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(REGISTRY)
