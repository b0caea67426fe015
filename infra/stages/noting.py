"""One event and one count per record and service: what became of it, never its payload."""

from __future__ import annotations

import structlog

from llmos.infra.telemetry.metrics import RECORD_SECONDS, RECORDS

log = structlog.get_logger()


def note(
    service: str,
    outcome: str,
    *,
    seconds: float,
    job: bytes | None = None,
    tenant: str = "",
    epoch: int | None = None,
    code: str = "",
) -> None:
    """Logs and counts a record that a service has settled."""
    RECORDS.labels(service, outcome).inc()
    RECORD_SECONDS.labels(service).observe(max(seconds, 0.0))
    event: dict[str, object] = {"outcome": outcome, "seconds": round(seconds, 6)}
    if job is not None:
        event["job"] = job.hex()
    if tenant:
        event["tenant"] = tenant
    if epoch is not None:
        event["epoch"] = epoch
    if code:
        event["code"] = code
    log.info("record", **event)
