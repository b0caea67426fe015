"""The scheduler's reports as Prometheus metrics."""

from __future__ import annotations

from llmos.infra.telemetry.metrics import (
    ARRIVAL_RATE,
    IN_FLIGHT,
    IN_FLIGHT_BYTES,
    RESIDENT_BYTES,
    SERVICE_RATE,
    UTILISATION,
    WAITING,
)
from llmos.schemas.telemetry import LiveCounts, SchedulerReport


def measure(counts: LiveCounts, report: SchedulerReport) -> None:
    """Sets the gauges; devices that are gone leave them."""
    for lane, (jobs, size) in counts.lanes.items():
        IN_FLIGHT.labels(lane).set(jobs)
        IN_FLIGHT_BYTES.labels(lane).set(size)
    for lane, tasks in report.waiting.items():
        WAITING.labels(lane).set(tasks)
    for gauge in (UTILISATION, ARRIVAL_RATE, SERVICE_RATE, RESIDENT_BYTES):
        gauge.clear()
    for device in report.devices:
        UTILISATION.labels(device.device).set(device.utilisation)
        ARRIVAL_RATE.labels(device.device).set(device.arrival_rate)
        SERVICE_RATE.labels(device.device).set(device.service_rate)
        RESIDENT_BYTES.labels(device.device).set(device.resident_bytes)
