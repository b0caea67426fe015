"""One event and one count per record and service: what became of it, never its payload."""

from __future__ import annotations

from typing import Any

import structlog

from llmos.infra.telemetry.metrics import RECORD_SECONDS, RECORDS, counter, histogram


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
    counter(RECORDS, service, outcome).inc()
    histogram(RECORD_SECONDS, service).observe(max(seconds, 0.0))
    event: dict[str, object] = {"outcome": outcome, "seconds": round(seconds, 6)}
    if job is not None:
        event["job"] = job.hex()
    if tenant:
        event["tenant"] = tenant
    if epoch is not None:
        event["epoch"] = epoch
    if code:
        event["code"] = code
    _logger(structlog.get_config()["processors"]).info("record", **event)


class _Bound:
    """The logger as it is configured now: to bind one anew for each event costs more than the event."""

    processors: Any = None
    logger: Any = None


def _logger(processors: Any) -> Any:
    if _Bound.processors is not processors:
        _Bound.processors, _Bound.logger = processors, structlog.get_logger().bind()
    return _Bound.logger
